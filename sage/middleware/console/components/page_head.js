/** The head of a page: its title, what it is for, and what can be done here. */
import {html} from "../core/html.js"

/**
 * @param {object} properties
 * @param {any} properties.title
 * @param {any} [properties.hint] a sentence below the title
 * @param {any} [properties.children] buttons
 */
export const PageHead = ({title, hint, children}) => html`
  <div class="page-head">
    <div><h1 class="name">${title}</h1>${hint && html`<p>${hint}</p>`}</div>
    ${children && html`<div class="actions">${children}</div>`}
  </div>`
