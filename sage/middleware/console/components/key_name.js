/** What a key is called, with its id where it stands for one: nobody remembers ids. */
import {html} from "../core/html.js"
import {t} from "../core/language.js"

/** @param {{id: string, name?: string | null}} properties */
export const KeyName = ({id, name}) => !id ? "–" : name
  ? html`<span title=${`${t("call.key")} ${id}`}>${name} <span class="dim">${id}</span></span>`
  : html`<code>${id}</code>`

const OF_KEY = /^(?:budget:)?key:([a-z0-9]+)$/

/** A subject such as `key:ab12`, `budget:key:ab12` or `user:ann`, with the key's name if `names` has it. */
export function Subject({subject, names}) {
  const id = OF_KEY.exec(subject ?? "")?.[1]
  const name = id && names[id]
  return name ? html`<span title=${subject}>${subject.slice(0, -id.length)}${name} <span class="dim">${id}</span></span>` : subject
}
