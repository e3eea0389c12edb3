/** Tabs, by pointer and by arrow keys (WAI-ARIA, tabs pattern). */
import {html, useRef, useState} from "../core/html.js"

const MOVES = {ArrowRight: 1, ArrowLeft: -1}

/** @param {{label: string, tabs: {name: string, body: () => any}[]}} properties */
export function Tabs({label, tabs}) {
  const [open, setOpen] = useState(0)
  const list = useRef(null)
  const move = event => {
    if (!(event.key in MOVES)) return
    const next = (open + MOVES[event.key] + tabs.length) % tabs.length
    setOpen(next)
    list.current.children[next].focus()
  }
  return html`
    <div class="tabs" role="tablist" aria-label=${label} ref=${list} onKeyDown=${move}>
      ${tabs.map(({name}, index) => html`
        <button key=${name} type="button" role="tab" id=${`tab-${index}`} aria-selected=${index === open} aria-controls="tab-panel"
          tabindex=${index === open ? 0 : -1} onClick=${() => setOpen(index)}>${name}</button>`)}
    </div>
    <div role="tabpanel" id="tab-panel" aria-labelledby=${`tab-${open}`} tabindex="0">${tabs[open].body()}</div>`
}
