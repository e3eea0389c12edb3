/** Amounts side by side, as bars from left to right; the longest is the whole width. */
import {html} from "../core/html.js"

/**
 * @param {object} properties
 * @param {{name: string, value: number, text?: any, href?: string}[]} properties.rows `text` is the value with its unit
 * @param {string} properties.label what is compared, for screen readers
 */
export function Bars({rows, label}) {
  const most = Math.max(0, ...rows.map(row => row.value))
  return html`
    <ul class="bars" aria-label=${label}>${rows.map(({name, value, text, href}) => html`
      <li key=${name}>
        <span class="name" title=${name}>${href ? html`<a href=${href}>${name}</a>` : name}</span>
        <span class="bar-line"><span style=${{width: `${most > 0 ? value / most * 100 : 0}%`}} /></span>
        <span class="numeric">${text ?? value}</span>
      </li>`)}</ul>`
}
