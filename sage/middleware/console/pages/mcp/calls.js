/** Calls of tools, out of the audit: who called which, when, how long it took and how it ended. */
import {ChoiceFilter, TextFilter} from "../../components/filter_bar.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Facts} from "../../components/facts.js"
import {Panel} from "../../components/panel.js"
import {StateBadge} from "../../components/state_badge.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {duration} from "../../core/format.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {usePages} from "../../core/pages.js"

const TONES = {ok: "good", tool_error: "busy", error: "bad", left: "calm"}
const tool = each => each.target.replace(/^mcp:/, "")
const who = each => each.actor.replace(/^user:/, "")

export function ToolCalls() {
  const [filters, setFilters] = useState({tool: "", actor: "", outcome: ""})
  const [open, setOpen] = useState(null)
  const query = `${filters.tool && `&target=${encodeURIComponent(`mcp:${filters.tool}`)}`}${filters.actor && `&actor=${encodeURIComponent(filters.actor)}`}`
  const {pages, cursor, error, next, more, retry, reload} = usePages(`/audit?action=mcp.call&limit=200${query}`)
  const calls = pages.flatMap(page => page.events).filter(each => !filters.outcome || each.details.outcome === filters.outcome)
  const set = name => value => setFilters(before => ({...before, [name]: value}))
  const outcome = each => html`<${StateBadge} state=${each.details.outcome} tone=${TONES[each.details.outcome]} />`
  const columns = [
    {key: "time", title: t("requests.time"), cell: each => html`<${When} at=${each.time} />`},
    {key: "tool", title: t("mcp.tool"), cell: each => html`<strong>${tool(each)}</strong>`},
    {key: "actor", title: t("requests.user"), cell: who},
    {key: "outcome", title: t("mcp.outcome"), cell: outcome},
    {key: "took", title: t("requests.took"), numeric: true, cell: each => duration(each.details.ms)},
    {key: "credential", title: t("audit.actor"), cell: each => each.credential ?? "–"},
  ]
  return html`
    <div class="filters">
      <${TextFilter} label=${t("mcp.tool")} value=${filters.tool} onChange=${set("tool")} placeholder="docs__search" />
      <${TextFilter} label=${t("requests.user")} value=${filters.actor} onChange=${set("actor")} />
      <${ChoiceFilter} label=${t("mcp.outcome")} value=${filters.outcome} onChange=${set("outcome")}
        options=${[["", t("requests.any")], ...Object.keys(TONES).map(each => [each, t(`state.${each}`)])]} />
      <button class="quiet" onClick=${reload}>${t("action.reload")}</button>
    </div>
    <${Failure} error=${error} retry=${retry} />
    ${pages.length === 0 ? !error && html`<${Waiting} />` : calls.length === 0
      ? html`<${Empty} title=${t("mcp.no_calls")}><p>${t("mcp.no_calls_hint")}</p><//>`
      : html`<${Table} label=${t("mcp.calls")} columns=${columns} rows=${calls} id=${each => each.seq} onOpen=${setOpen} onEnd=${more} />`}
    ${cursor && html`<button class="wide" onClick=${next}>${t("mcp.earlier")}</button>`}
    ${open && html`
      <${Panel} title=${tool(open)} onClose=${() => setOpen(null)}>
        <${Facts} items=${[
          [t("requests.time"), html`<${When} at=${open.time} />`],
          [t("requests.user"), who(open)],
          [t("audit.actor"), open.credential],
          [t("call.tenant"), open.tenant],
          [t("audit.address"), open.address],
          [t("mcp.outcome"), html`${outcome(open)} ${open.details.status}`],
          [t("requests.took"), duration(open.details.ms)],
          [t("mcp.arguments"), html`<code>${open.details.arguments_sha256}</code>`],
        ]} />
        <p class="dim">${t("mcp.arguments_hint")}</p>
      <//>`}`
}
