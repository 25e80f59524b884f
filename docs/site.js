// What the theme leaves to mend, after it has changed the page: tables that scroll sideways are reached with the
// keyboard, and the search has a name.
const mend = () => {
  for (const wrap of document.querySelectorAll(".md-typeset__scrollwrap")) wrap.tabIndex = 0;
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
};
new MutationObserver(mend).observe(document.documentElement, { childList: true, subtree: true });
mend();
