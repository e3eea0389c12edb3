/** A table that draws only the rows that are seen, so that ten thousand scroll without a stall, and asks for more before its end. */
import {html, useEffect, useMemo, useRef, useState} from "../core/html.js"

const ROW = 40 // pixels: every row has this height, set in style.css as well
const AHEAD = 12
let made = 0

/**
 * By keyboard: arrows, Page Up and Down, Home and End go through rows that open, Enter opens one; Tab reaches what is in them.
 * @param {object} properties
 * @param {{key: string, title: any, numeric?: boolean, cell: (row: any) => any}[]} properties.columns
 * @param {any[]} properties.rows
 * @param {(row: any) => string | number} properties.id
 * @param {string} properties.label what the table lists, for screen readers
 * @param {(row: any) => void} [properties.onOpen] a click or Enter on a row
 * @param {(() => void) | null} [properties.onEnd] is called, where there are further rows, when the last ones are about to be seen
 */
export function Table({columns, rows, id, label, onOpen, onEnd}) {
  const box = useRef(null)
  const own = useMemo(() => `table-${(made += 1)}`, [])
  const [seen, setSeen] = useState({first: 0, last: 60})
  const [chosen, setChosen] = useState(0)
  const at = Math.min(chosen, rows.length - 1)
  const look = () => {
    const {scrollTop, clientHeight} = box.current
    const first = Math.max(0, Math.floor(scrollTop / ROW / AHEAD - 1) * AHEAD) // drawn anew once in so many rows
    const last = (Math.ceil((scrollTop + clientHeight) / ROW / AHEAD) + 1) * AHEAD
    setSeen(before => before.first === first && before.last === last ? before : {first, last})
    if (scrollTop > 0 && last + AHEAD > rows.length) onEnd?.()
  }
  useEffect(() => {
    const watch = new ResizeObserver(look)
    watch.observe(box.current)
    return () => watch.disconnect()
  }, [])
  const press = event => {
    if (event.target !== event.currentTarget) return // a button or link in a row
    const page = Math.max(1, Math.floor(box.current.clientHeight / ROW) - 2)
    const moves = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -rows.length, End: rows.length}
    if (event.key === "Enter" && onOpen) {
      event.preventDefault() // else the button that has the focus then is pressed, too
      return onOpen(rows[at])
    }
    if (!(event.key in moves)) return
    event.preventDefault()
    const next = Math.max(0, Math.min(rows.length - 1, at + moves[event.key]))
    setChosen(next)
    const top = next * ROW
    const {scrollTop, clientHeight} = box.current
    if (top < scrollTop) box.current.scrollTop = top
    else if (top + 3 * ROW > scrollTop + clientHeight) box.current.scrollTop = top + 3 * ROW - clientHeight
  }
  const open = (event, row) => {
    if (event.target.closest("a, button, input, select, label, summary") || getSelection()?.type === "Range") return
    onOpen?.(row)
  }
  const first = Math.min(seen.first, Math.max(0, rows.length - 1))
  const shown = rows.slice(first, seen.last)
  const after = Math.max(0, rows.length - seen.last) * ROW
  const grid = onOpen && {role: "grid", tabindex: 0, "aria-label": label, onKeyDown: press,
    "aria-activedescendant": at >= first && at < seen.last && rows.length ? `${own}-${at}` : undefined}
  return html`
    <div class="table-box" ref=${box} onScroll=${look} tabindex=${onOpen ? -1 : 0} role="region" aria-label=${label}>
      <table ...${grid} aria-rowcount=${rows.length + 1}>
        <thead><tr>${columns.map(column => html`
          <th key=${column.key} scope="col" class=${column.numeric ? "numeric" : ""}>${column.title}</th>`)}</tr></thead>
        <tbody>
          ${first > 0 && html`<tr key="before" class="gap" style=${{height: `${first * ROW}px`}} aria-hidden="true" />`}
          ${shown.map((row, index) => html`
            <tr key=${id(row)} id=${`${own}-${first + index}`} aria-rowindex=${first + index + 2}
                class=${`${onOpen ? "opens" : ""} ${first + index === at ? "at" : ""}`}
                onClick=${onOpen && (event => { setChosen(first + index); open(event, row) })}>
              ${columns.map(column => html`
                <td key=${column.key} class=${column.numeric ? "numeric" : ""}>${column.cell(row)}</td>`)}
            </tr>`)}
          ${after > 0 && html`<tr key="after" class="gap" style=${{height: `${after}px`}} aria-hidden="true" />`}
        </tbody>
      </table>
    </div>`
}
