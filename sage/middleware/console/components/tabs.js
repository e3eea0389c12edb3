/** Tabs, by pointer and by arrow keys (WAI-ARIA, tabs pattern). */
import {html, useMemo, useRef, useState} from "../core/html.js"

const MOVES = {ArrowRight: 1, ArrowLeft: -1}
let made = 0

/** @param {{label: string, tabs: {name: string, body: () => any}[]}} properties */
export function Tabs({label, tabs}) {
  const [chosen, setOpen] = useState(0)
  const open = Math.min(chosen, tabs.length - 1)
  const list = useRef(null)
  const own = useMemo(() => `tabs-${(made += 1)}`, [])
  const move = event => {
    const ends = {Home: 0, End: tabs.length - 1}
    if (!(event.key in MOVES) && !(event.key in ends)) return
    event.preventDefault()
    const next = ends[event.key] ?? (open + MOVES[event.key] + tabs.length) % tabs.length
    setOpen(next)
    list.current.children[next].focus()
  }
  return html`
    <div class="tabs" role="tablist" aria-label=${label} ref=${list} onKeyDown=${move}>
      ${tabs.map(({name}, index) => html`
        <button key=${name} type="button" role="tab" id=${`${own}-${index}`} aria-selected=${index === open} aria-controls=${own}
          tabindex=${index === open ? 0 : -1} onClick=${() => setOpen(index)}>${name}</button>`)}
    </div>
    <div role="tabpanel" id=${own} aria-labelledby=${`${own}-${open}`} tabindex="0">${tabs[open].body()}</div>`
}
