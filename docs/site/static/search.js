// Excerpts of search results come from the article: the theme's main element begins with its buttons.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const textOf = Search.htmlToText;
  Search.htmlToText = (html, anchor) =>
    textOf(html.replace('role="main"', "").replace('<article class="bd-article"', '$& role="main"'), anchor);
});
