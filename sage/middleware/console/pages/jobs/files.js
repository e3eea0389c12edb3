/** Files that were uploaded, and those that jobs made: saved, deleted. */
import {Confirm} from "../../components/dialog.js"
import {ChoiceFilter} from "../../components/filter_bar.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Table} from "../../components/table.js"
import {told} from "../../components/toast.js"
import {When} from "../../components/when.js"
import {get, remove, request} from "../../core/api.js"
import {download} from "../../core/download.js"
import {bytes} from "../../core/format.js"
import {html, useLoaded, useRef, useState} from "../../core/html.js"
import {t} from "../../core/language.js"

const PURPOSES = ["batch", "batch_output", "results", "ingest", "assistants", "user_data", "snapshot"]

/** A file's object, once it is stored. */
export async function upload(file, purpose) {
  const form = new FormData()
  form.set("purpose", purpose)
  form.set("file", file, file.name)
  return (await request("POST", "/v1/files", {body: form})).json()
}

export function Files() {
  const [purpose, setPurpose] = useState("")
  const {data, error, reload} = useLoaded(stop => get(`/v1/files${purpose ? `?purpose=${purpose}` : ""}`, stop), [purpose])
  const [failed, setFailed] = useState(undefined)
  const [deleting, setDeleting] = useState(null)
  const [busy, setBusy] = useState(false)
  const picker = useRef(null)
  const add = async event => {
    setFailed(undefined)
    setBusy(true)
    try {
      for (const file of event.target.files) await upload(file, file.name.endsWith(".jsonl") ? "batch" : "ingest")
      told(t("jobs.uploaded"))
    } catch (problem) {
      setFailed(problem)
    }
    setBusy(false)
    event.target.value = ""
    reload()
  }
  const columns = [
    {key: "name", title: t("jobs.file"), cell: file => file.filename},
    {key: "purpose", title: t("jobs.purpose"), cell: file => t(`purpose.${file.purpose}`)},
    {key: "size", title: t("jobs.size"), numeric: true, cell: file => bytes(file.bytes)},
    {key: "created", title: t("jobs.created"), cell: file => html`<${When} at=${file.created_at} />`},
    {key: "expires", title: t("jobs.forgotten"), cell: file => html`<${When} at=${file.expires_at} />`},
    {key: "act", title: t("keys.actions"), cell: file => html`
      <button class="quiet small" onClick=${() => download(`/v1/files/${file.id}/content`, file.filename).catch(setFailed)}>${t("jobs.save")}</button>
      <button class="quiet small" onClick=${() => setDeleting(file)}>${t("search.delete")}</button>`},
  ]
  return html`
    <div class="filters">
      <${ChoiceFilter} label=${t("jobs.purpose")} value=${purpose} onChange=${setPurpose}
        options=${[["", t("requests.any")], ...PURPOSES.map(each => [each, t(`purpose.${each}`)])]} />
      <input ref=${picker} id="job-files" type="file" multiple hidden onChange=${add} />
      <button disabled=${busy} onClick=${() => picker.current.click()}>${t("jobs.upload")}</button>
    </div>
    <${Failure} error=${error ?? failed} retry=${reload} />
    ${!data ? !error && html`<${Waiting} />` : data.data.length === 0
      ? html`<${Empty} title=${t("jobs.no_files")}><p>${t("jobs.no_files_hint")}</p><//>`
      : html`<${Table} label=${t("jobs.files")} columns=${columns} rows=${data.data} id=${file => file.id} />`}
    ${deleting && html`<${Confirm} title=${t("search.delete_title", {name: deleting.filename})} lost=${t("jobs.file_lost")} action=${t("search.delete")}
      onClose=${() => setDeleting(null)}
      onConfirm=${async () => { await remove(`/v1/files/${deleting.id}`); told(t("jobs.file_deleted")); reload() }} />`}`
}
