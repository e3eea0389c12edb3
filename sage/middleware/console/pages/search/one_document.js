/** One document in full, and deleting it. */
import {Confirm} from "../../components/dialog.js"
import {Facts} from "../../components/facts.js"
import {Failure, Waiting} from "../../components/notice.js"
import {Panel} from "../../components/panel.js"
import {told} from "../../components/toast.js"
import {get, remove} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {path} from "./collection_path.js"

/** @param {{collection: string, id: string, onClose: () => void, onGone?: () => void}} properties */
export function OneDocument({collection, id, onClose, onGone}) {
  const own = path(collection, `/documents/${id.split("/").map(encodeURIComponent).join("/")}`)
  const {data, error} = useLoaded(stop => get(own, stop))
  const [deleting, setDeleting] = useState(false)
  return html`
    <${Panel} title=${id} onClose=${onClose}>
      <${Failure} error=${error} />
      ${!data ? !error && html`<${Waiting} />` : html`
        <${Facts} items=${Object.entries(data.metadata).map(([key, value]) => [key, typeof value === "string" ? value : JSON.stringify(value)])} />
        <p class="text document">${data.text}</p>
        ${onGone && html`<div class="actions"><button class="danger" onClick=${() => setDeleting(true)}>${t("search.delete")}</button></div>`}`}
      ${deleting && html`<${Confirm} title=${t("search.delete_title", {name: id})} lost=${t("search.document_lost")} action=${t("search.delete")}
        onClose=${() => setDeleting(false)} onConfirm=${async () => { await remove(own); told(t("search.document_deleted")); onGone?.(); onClose() }} />`}
    <//>`
}
