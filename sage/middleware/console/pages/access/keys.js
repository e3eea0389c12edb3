/** API keys: one's own, and for owners and admins those of a user or a team. */
import {ChoiceFilter, TextFilter} from "../../components/filter_bar.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {PageHead} from "../../components/page_head.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {get} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {queryOf, useQuery} from "../../core/query.js"
import {place} from "../../core/router.js"
import {hasAccounts, may, me} from "../../core/session.js"
import {NewKey} from "./new_key.js"
import {OneKey} from "./one_key.js"
import {patternText, rights} from "./rights.js"

export function Keys() {
  if (!hasAccounts.peek()) return html`<${PageHead} title=${t("page.keys")} /><${Empty} title=${t("keys.open")}><p>${t("keys.open_hint")}</p><//>`
  return html`<${KeyList} />`
}

/** Teams whose keys the user may see. */
function teamsOf(loaded) {
  return [["", t("keys.own")], ...(loaded ?? []).filter(team => !team.deleted).map(team => [team.name, t("keys.of_team", {name: team.name})])]
}

function KeyList() {
  const governs = may.peek()("tenant:admin")
  const [filter, set] = useQuery({user: "", team: "", ended: ""})
  const path = `/auth/keys?${queryOf(governs ? {user: filter.user, team: filter.team} : {})}`
  const {data, error, reload} = useLoaded(stop => get(path, stop), [path])
  const teams = useLoaded(stop => governs ? get("/auth/teams", stop) : Promise.resolve({teams: []}))
  const [making, setMaking] = useState(false)
  const [open, setOpen] = useState(place.peek().query.get("open") ?? "")
  const keys = data?.keys.filter(key => filter.ended || key.revoked_at === null)
  const listed = data?.keys.find(key => key.id === open)
  const elsewhere = useLoaded(stop => open && data && !listed ? get(`/auth/keys/${encodeURIComponent(open)}`, stop) : Promise.resolve(null), [open, !data, !listed])
  const of = open ? listed ?? elsewhere.data : undefined
  return html`
    <${PageHead} title=${t("page.keys")} hint=${t("keys.hint")}>
      <button class="primary" onClick=${() => setMaking(true)}>${t("keys.make")}</button><//>
    <div class="filters">
      ${governs && html`
        <${ChoiceFilter} label=${t("keys.whose")} value=${filter.team} onChange=${team => set({team})} options=${teamsOf(teams.data?.teams)} />
        <${TextFilter} label=${t("filter.user")} value=${filter.user} onChange=${user => set({user})} />`}
      <label class="check"><input type="checkbox" checked=${!!filter.ended} onChange=${event => set({ended: event.target.checked ? "1" : ""})} /> ${t("keys.with_ended")}</label>
    </div>
    <${Failure} error=${error ?? elsewhere.error} retry=${reload} />
    ${!keys ? !error && html`<${Waiting} />` : keys.length === 0
      ? html`<${Empty} title=${t("keys.none")}><p>${t("keys.none_hint")}</p><//>`
      : html`<${Table} label=${t("page.keys")} columns=${columns(keys)} rows=${keys} id=${key => key.id} onOpen=${key => setOpen(key.id)} />`}
    ${making && html`<${NewKey} onClose=${() => { setMaking(false); reload() }} />`}
    ${of && html`<${OneKey} key=${of.id} of=${of} onClose=${() => setOpen("")} onChanged=${() => { reload(); elsewhere.reload() }} />`}`
}

const columns = keys => [
  {key: "name", title: t("keys.name"), cell: key => key.name || html`<span class="dim">${t("keys.unnamed")}</span>`},
  ...(keys.some(key => key.user !== me.peek()?.user) ? [{key: "user", title: t("people.user"), cell: key => key.user}] : []),
  {key: "last4", title: t("keys.key"), cell: key => html`<code>…${key.last4}</code>`},
  {key: "rights", title: t("keys.rights"), cell: key => html`<span title=${key.scopes.join(", ")}>${rights(key)}</span>`},
  {key: "models", title: t("keys.models"), cell: key => patternText(key.models)},
  {key: "tags", title: t("call.tags"), cell: key => key.tags.join(", ") || "–"},
  {key: "used", title: t("keys.last_used"), cell: key => html`<${When} at=${key.last_used_at} />`},
  {key: "ends", title: t("keys.expires"), cell: key => key.revoked_at !== null ? html`<span class="badge bad">${t("keys.revoked")}</span>`
    : key.expires_at === null ? t("keys.never") : html`<${When} at=${key.expires_at} />`},
]
