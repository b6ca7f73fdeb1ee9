// Guides come before the reference, the reference before records, and words of the query in a title count each.
var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
  score: ([page, title, anchor, descr, score]) => {
    const query = new URLSearchParams(window.location.search).get("q") || "";
    const words = query.toLowerCase().match(/\w+/g) || [];
    const named = words.filter((word) => title.toLowerCase().includes(word)).length;
    const guide = /^docs\/(?!reference\/)/.test(page) ? 20 : page.startsWith("docs/") ? 5 : 0;
    return score + guide + (descr ? 0 : (20 * named) / Math.max(words.length, 1));
  },
};
