/** What is known of one thing: names and values. */
import {html} from "../core/html.js"

/** @param {{items: [any, any][]}} properties  a value that is null, undefined or empty is a dash */
export const Facts = ({items}) => html`
  <dl class="list">${items.map(([label, value], index) => html`
    <div key=${index}><dt>${label}</dt><dd>${value === null || value === undefined || value === "" ? "–" : value}</dd></div>`)}</dl>`
