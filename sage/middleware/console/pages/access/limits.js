/** Rate limits: whose hold, where they come from, and how far they are used in the last minute. */
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {KeyName} from "../../components/key_name.js"
import {Meter} from "../../components/meter.js"
import {PageHead} from "../../components/page_head.js"
import {Table} from "../../components/table.js"
import {get} from "../../core/api.js"
import {number} from "../../core/format.js"
import {html, useLoaded} from "../../core/html.js"
import {t} from "../../core/language.js"
import {addressOf} from "../../core/query.js"
import {address, go} from "../../core/router.js"
import {may} from "../../core/session.js"

const USES = {rpm: "requests", tpm: "tokens", concurrent: "running"}

export function Limits() {
  const {data, error, reload} = useLoaded(stop => get("/limits", stop))
  const used = (row, bound) => row[bound] === null ? "–" : html`
    <span class="progress"><${Meter} value=${row.used[USES[bound]]} most=${row[bound]} label=${`${row.key_name ?? row.name}: ${t(`limit.${bound}`)}`} />
      ${number(row.used[USES[bound]])} / ${number(row[bound])}</span>`
  const columns = [
    {key: "kind", title: t("limits.of"), cell: row => t(`usage.${row.kind}`)},
    {key: "name", title: t("people.name"), cell: row => row.kind === "key" ? html`<${KeyName} id=${row.name} name=${row.key_name} />` : row.name},
    ...Object.keys(USES).map(bound => ({key: bound, title: t(`limit.${bound}`), cell: row => used(row, bound)})),
    {key: "source", title: t("limits.source"), cell: row => t(`limits.${row.source}`)},
  ]
  return html`
    <${PageHead} title=${t("page.limits")} hint=${t("limits.hint")}><button onClick=${reload}>${t("action.reload")}</button><//>
    <${Failure} error=${error} retry=${reload} />
    ${data?.fault && html`<p class="notice bad">${data.fault}</p>`}
    ${!data ? !error && html`<${Waiting} />` : data.limits.length === 0
      ? html`<${Empty} title=${t("limits.none")}><p>${t("limits.none_hint")}
          ${may.peek()("tenant:admin") && html` <a href=${address("people")}>${t("page.people")}</a> · <a href=${address("keys")}>${t("page.keys")}</a>`}</p><//>`
      : html`<${Table} label=${t("page.limits")} columns=${columns} rows=${data.limits} id=${row => row.subject} onOpen=${open} />`}`
}

/** To where it is changed. */
function open({kind, name}) {
  if (kind === "model") return go("models", name)
  location.hash = kind === "key" ? addressOf("keys", "", {open: name})
    : may.peek()("tenant:admin") ? addressOf("people", "", kind === "user" ? {user: name} : {team: name}) : addressOf("requests", "", {})
}
