/** Who changed what, newest first. */
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {usePages} from "../../core/pages.js"

export function Audit() {
  const [filter, setFilter] = useState({actor: "", action: "", target: ""})
  const query = new URLSearchParams({limit: "200"})
  for (const [name, value] of Object.entries(filter)) if (value.trim()) query.set(name, value.trim())
  const {pages, cursor, error, next, reload} = usePages(`/audit?${query}`)
  const events = pages.flatMap(page => page.events)
  const columns = [
    {key: "time", title: t("requests.time"), cell: event => html`<${When} at=${event.time} />`},
    {key: "actor", title: t("audit.actor"), cell: event => event.actor},
    {key: "action", title: t("audit.action"), cell: event => event.action},
    {key: "target", title: t("audit.target"), cell: event => event.target},
    {key: "details", title: t("audit.details"), cell: event => html`<code title=${JSON.stringify(event.details)}>${JSON.stringify(event.details)}</code>`},
    {key: "address", title: t("audit.address"), cell: event => event.address ?? "–"},
  ]
  return html`
    <h1>${t("page.audit")}</h1>
    <div class="filters">${["actor", "action", "target"].map(name => html`
      <label key=${name}>${t(`audit.${name}`)} <input value=${filter[name]} spellcheck="false"
        onChange=${event => setFilter({...filter, [name]: event.target.value})} /></label>`)}</div>
    <${Failure} error=${error} retry=${reload} />
    ${pages.length === 0 ? !error && html`<${Waiting} />` : events.length === 0
      ? html`<${Empty} title=${t("audit.none")}><p>${t("audit.none_hint")}</p><//>`
      : html`<${Table} label=${t("page.audit")} columns=${columns} rows=${events} id=${event => event.seq} />`}
    ${cursor && html`<button class="quiet wide" onClick=${next}>${t("audit.more")}</button>`}`
}
