/** A panel at the right edge with one thing's details; it is modal, and Escape closes it. */
import {html} from "../core/html.js"
import {t} from "../core/language.js"
import {useModal} from "./dialog.js"
import {Icon} from "./icon.js"

/** @param {{title: any, onClose: () => void, children?: any}} properties */
export function Panel({title, onClose, children}) {
  const modal = useModal(onClose)
  return html`
    <dialog ...${modal.properties} class="panel">
      <div class="panel-head"><h2 id=${modal.titled} class="name">${title}</h2>
        <button class="quiet" onClick=${onClose} aria-label=${t("action.close")} title=${t("action.close")}><${Icon} name="close" /></button></div>
      ${children}
    </dialog>`
}
