/** A table that draws only the rows that are seen, so that ten thousand scroll without a stall. */
import {html, useEffect, useRef, useState} from "../core/html.js"

const ROW = 40 // pixels: every row has this height, set in style.css as well
const AHEAD = 12

/**
 * @param {object} properties
 * @param {{key: string, title: string, numeric?: boolean, cell: (row: any) => any}[]} properties.columns
 * @param {any[]} properties.rows
 * @param {(row: any) => string | number} properties.id
 * @param {string} properties.label what the table lists, for screen readers
 * @param {(row: any) => void} [properties.onOpen] a click or Enter on a row
 */
export function Table({columns, rows, id, label, onOpen}) {
  const box = useRef(null)
  const [seen, setSeen] = useState({first: 0, last: 60})
  const look = () => {
    const {scrollTop, clientHeight} = box.current
    const first = Math.max(0, Math.floor(scrollTop / ROW) - AHEAD)
    setSeen({first, last: Math.ceil((scrollTop + clientHeight) / ROW) + AHEAD})
  }
  useEffect(() => {
    const watch = new ResizeObserver(look)
    watch.observe(box.current)
    return () => watch.disconnect()
  }, [])
  const shown = rows.slice(seen.first, seen.last)
  const before = seen.first * ROW
  const after = Math.max(0, rows.length - seen.last) * ROW
  return html`
    <div class="table-box" ref=${box} onScroll=${look} tabindex="0" role="region" aria-label=${label}>
      <table aria-rowcount=${rows.length + 1}>
        <thead><tr>${columns.map(column => html`
          <th key=${column.key} scope="col" class=${column.numeric ? "numeric" : ""}>${column.title}</th>`)}</tr></thead>
        <tbody>
          ${before > 0 && html`<tr key="before" class="gap" style=${{height: `${before}px`}} aria-hidden="true" />`}
          ${shown.map((row, index) => html`
            <tr key=${id(row)} aria-rowindex=${seen.first + index + 2} class=${onOpen ? "opens" : ""}
                tabindex=${onOpen ? 0 : undefined} onClick=${onOpen && (() => onOpen(row))}
                onKeyDown=${onOpen && (event => event.key === "Enter" && event.target === event.currentTarget && onOpen(row))}>
              ${columns.map(column => html`
                <td key=${column.key} class=${column.numeric ? "numeric" : ""}>${column.cell(row)}</td>`)}
            </tr>`)}
          ${after > 0 && html`<tr key="after" class="gap" style=${{height: `${after}px`}} aria-hidden="true" />`}
        </tbody>
      </table>
    </div>`
}
