/** Who changed what, newest first. */
import {Empty, Failure, Waiting} from "../components/notice.js"
import {Table} from "../components/table.js"
import {get} from "../core/api.js"
import {html, useLoaded, useState} from "../core/html.js"
import {t} from "../core/language.js"
import {When} from "./models.js"

export function Audit() {
  const [filter, setFilter] = useState({actor: "", action: "", target: ""})
  const [more, setMore] = useState([])
  const query = new URLSearchParams({limit: "200"})
  for (const [name, value] of Object.entries(filter)) if (value.trim()) query.set(name, value.trim())
  const {data, error, reload} = useLoaded(stop => get(`/audit?${query}`, stop), [String(query)])
  const pages = data ? [data, ...more] : []
  const cursor = pages.at(-1)?.cursor
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
        onChange=${event => { setMore([]); setFilter({...filter, [name]: event.target.value}) }} /></label>`)}</div>
    <${Failure} error=${error} retry=${reload} />
    ${!data ? !error && html`<${Waiting} />` : data.events.length === 0
      ? html`<${Empty} title=${t("audit.none")}><p>${t("audit.none_hint")}</p><//>`
      : html`<${Table} label=${t("page.audit")} columns=${columns} rows=${pages.flatMap(page => page.events)} id=${event => event.seq} />`}
    ${cursor && html`<button class="quiet wide" onClick=${async () => setMore([...more, await get(`/audit?${query}&cursor=${cursor}`)])}>${t("audit.more")}</button>`}`
}
