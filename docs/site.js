// Tables that scroll sideways can be reached with the keyboard; the theme wraps them after the page has loaded.
const reach = () => {
  for (const wrap of document.querySelectorAll(".md-typeset__scrollwrap")) wrap.tabIndex = 0;
};
new MutationObserver(reach).observe(document.documentElement, { childList: true, subtree: true });
reach();
