/** The documents of a collection: those that a filter lets through, one in full, deleting one or all of a filter. */
import {Confirm} from "../../components/dialog.js"
import {TextFilter} from "../../components/filter_bar.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Table} from "../../components/table.js"
import {told} from "../../components/toast.js"
import {post} from "../../core/api.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {usePages} from "../../core/pages.js"
import {path} from "./collection_path.js"
import {OneDocument} from "./one_document.js"

export function Documents({name, writes, onChange}) {
  const [filter, setFilter] = useState("")
  const [open, setOpen] = useState(null)
  const [deleting, setDeleting] = useState(false)
  const {pages, cursor, error, next, more, retry, reload} = usePages(path(name, `/documents?limit=200${filter && `&filter=${encodeURIComponent(filter)}`}`))
  const rows = pages.flatMap(page => page.documents)
  const gone = () => { reload(); onChange() }
  const columns = [
    {key: "id", title: t("jobs.id"), cell: each => html`<code title=${each.id}>${each.id}</code>`},
    {key: "text", title: t("vdb.text"), cell: each => each.text.slice(0, 300)},
    {key: "metadata", title: t("vdb.metadata"), cell: each => html`<code>${JSON.stringify(each.metadata)}</code>`},
  ]
  return html`
    <div class="filters">
      <${TextFilter} label=${t("search.filter")} value=${filter} onChange=${setFilter} placeholder='{"lang": "zh"}' />
      ${writes && filter && rows.length > 0 && html`<button class="danger" onClick=${() => setDeleting(true)}>${t("search.delete_filtered")}</button>`}
    </div>
    <${Failure} error=${error} retry=${retry} />
    ${pages.length === 0 ? !error && html`<${Waiting} />` : rows.length === 0
      ? html`<${Empty} title=${t(filter ? "search.nothing" : "search.no_documents")}><p>${t(filter ? "search.nothing_hint" : "search.no_documents_hint")}</p><//>`
      : html`<${Table} label=${t("search.documents_tab")} columns=${columns} rows=${rows} id=${each => each.id} onOpen=${each => setOpen(each.id)} onEnd=${more} />`}
    ${cursor && html`<button class="wide" onClick=${next}>${t("services.further")}</button>`}
    ${open && html`<${OneDocument} key=${open} collection=${name} id=${open} onClose=${() => setOpen(null)} onGone=${writes ? gone : undefined} />`}
    ${deleting && html`<${Confirm} title=${t("search.delete_filtered")} lost=${t("search.filtered_lost", {filter})} action=${t("search.delete")}
      onClose=${() => setDeleting(false)}
      onConfirm=${async () => { await post(path(name, "/documents/delete"), {filter: JSON.parse(filter)}); told(t("kv.deleted")); setFilter(""); gone() }} />`}`
}
