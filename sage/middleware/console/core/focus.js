/** The keyboard's place in the page: after something was removed or disabled, and on a new page. */

/**
 * Keeps the focus near its place when what had it goes away (a deleted row, a dialog's opener), and gives it back to what was
 * disabled for a while. Without this the keyboard would begin at the top of the page again.
 */
export function keepFocus() {
  /** @type {Element[]} what had the focus last, and what it stands in, innermost first */
  let path = []
  addEventListener("focusin", event => {
    path = []
    for (let each = /** @type {Element | null} */ (event.target); each; each = each.parentElement) path.push(each)
  })
  const mend = (/** @type {MutationRecord[]} */ changes) => {
    if (path.length === 0 || (document.activeElement !== null && document.activeElement !== document.body)) return
    const [last] = path
    if (!last.isConnected) focus(nearest(path))
    else if (changes.some(each => each.attributeName === "disabled" && each.target === last) && !last.matches(":disabled")) focus(last)
  }
  new MutationObserver(mend).observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ["disabled"]})
}

/** What can take the focus where the first of `path` was. */
function nearest(/** @type {Element[]} */ path) {
  const left = path.find(each => each.isConnected)
  const box = left?.closest(".table-box")
  const near = left?.closest("dialog[open]") ?? box?.querySelector("table[tabindex]") ?? box ?? left?.closest("[tabindex]:not(main)")
  return near ?? document.querySelector("main h1") ?? document.querySelector("main")
}

/** Leads the focus to the heading of the page, which is then read out; waits for it if need be. Returns what ends waiting. */
export function focusHeading() {
  const main = document.querySelector("main")
  const heading = () => document.querySelector("main h1")
  focus(heading() ?? main)
  if (heading() || !main) return () => {}
  const watch = new MutationObserver(() => {
    if (document.activeElement !== main) return watch.disconnect()
    if (heading()) focus(heading())
  })
  watch.observe(main, {subtree: true, childList: true})
  return () => watch.disconnect()
}

/** @param {Element | null} element */
function focus(element) {
  if (!(element instanceof HTMLElement)) return
  if (!element.hasAttribute("tabindex") && !element.matches("a[href], button, input, select, textarea, summary")) element.tabIndex = -1
  element.focus({preventScroll: true})
}
