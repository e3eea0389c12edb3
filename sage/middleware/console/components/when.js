/** A moment in Unix seconds: how long ago, with the exact local time on hover. */
import {exactTime, relativeTime} from "../core/format.js"
import {html} from "../core/html.js"

export const When = ({at}) => at === null || at === undefined ? "–" : html`<time title=${exactTime(at)}>${relativeTime(at)}</time>`
