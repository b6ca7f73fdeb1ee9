"""What a record says of a claim, in words that a table marks."""

HOLDS, IN_PART, NOT_HERE, OPEN = (
    "**holds**",
    "**holds in part**",
    "**does not hold here**",
    "**cannot be told**",
)
