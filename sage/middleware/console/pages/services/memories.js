/** What is remembered: sessions, a search over all, and forgetting a session or everything of a user. */
import {Confirm} from "../../components/dialog.js"
import {TextFilter} from "../../components/filter_bar.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Table} from "../../components/table.js"
import {told} from "../../components/toast.js"
import {When} from "../../components/when.js"
import {get, post, remove} from "../../core/api.js"
import {number} from "../../core/format.js"
import {html, useEffect, useRef, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {usePages} from "../../core/pages.js"
import {OneMemory} from "./one_memory.js"

/** The query that names whose memory it is. */
export const scopeQuery = scope => new URLSearchParams(Object.entries(scope).filter(([, name]) => name)).toString()
const given = scope => Object.fromEntries(Object.entries(scope).filter(([, name]) => name))

export function Memories() {
  const [scope, setScope] = useState({user: "", agent: ""})
  const [shown, setShown] = useState(/** @type {{session?: string, query?: string} | null} */ (null))
  const [forgetting, setForgetting] = useState(/** @type {{session?: string} | null} */ (null))
  const query = scopeQuery(scope)
  const {pages, cursor, error, next, more, retry, reload} = usePages(`/memory/sessions?limit=200&${query}`, {parameter: "after", field: "next"})
  useEffect(() => { setShown(null) }, [query])
  const sessions = pages.flatMap(page => page.sessions)
  const ask = event => {
    event.preventDefault()
    setShown({query: String(new FormData(event.target).get("query"))})
  }
  const forget = async () => {
    const {session} = forgetting ?? {}
    const {deleted} = await remove(session === undefined ? `/memory?${query}` : `/memory/sessions/${encodeURIComponent(session)}?${query}`)
    told(t("memory.forgotten", {count: deleted}))
    setShown(null)
    reload()
  }
  const columns = [
    {key: "session", title: t("memory.session"), cell: each => html`<strong>${each.session_id}</strong>`},
    {key: "count", title: t("memory.count"), numeric: true, cell: each => number(each.count)},
    {key: "first", title: t("memory.first"), cell: each => html`<${When} at=${each.first_at} />`},
    {key: "last", title: t("memory.last"), cell: each => html`<${When} at=${each.last_at} />`},
    {key: "act", title: t("keys.actions"), cell: each => html`
      <button class="quiet small" onClick=${() => setForgetting({session: each.session_id})}>${t("memory.forget")}</button>`},
  ]
  const whose = [scope.user, scope.agent].filter(Boolean).join(" · ")
  return html`
    <div class="filters">
      <${TextFilter} label=${t("memory.user")} value=${scope.user} onChange=${user => setScope({...scope, user})} placeholder=${t("memory.nobody")} />
      <${TextFilter} label=${t("memory.agent")} value=${scope.agent} onChange=${agent => setScope({...scope, agent})} />
      <form class="search-line" onSubmit=${ask}><label><span>${t("memory.search")}</span> <input name="query" required /></label>
        <button class="primary">${t("search.search")}</button></form>
      ${whose && sessions.length > 0 && html`<button class="danger" onClick=${() => setForgetting({})}>${t("memory.forget_all", {whose})}</button>`}
    </div>
    <${Failure} error=${error} retry=${retry} />
    ${shown ? html`<${Found} key=${JSON.stringify(shown)} shown=${shown} scope=${scope} onBack=${() => { setShown(null); reload() }} />`
      : pages.length === 0 ? !error && html`<${Waiting} />` : sessions.length === 0
        ? html`<${Empty} title=${t("memory.none")}><p>${t(whose ? "memory.none_of" : "memory.none_hint", {whose})}</p><//>`
        : html`<${Table} label=${t("services.memory")} columns=${columns} rows=${sessions} id=${each => each.session_id} onEnd=${more}
            onOpen=${each => setShown({session: each.session_id})} />
          ${cursor && html`<button class="wide" onClick=${next}>${t("services.further")}</button>`}`}
    ${forgetting && html`<${Confirm} action=${t("memory.forget")} onClose=${() => setForgetting(null)} onConfirm=${forget}
      title=${forgetting.session === undefined ? t("memory.forget_all", {whose}) : t("memory.forget_session", {name: forgetting.session})}
      lost=${forgetting.session === undefined ? t("memory.all_lost", {whose})
        : t("memory.session_lost", {count: sessions.find(each => each.session_id === forgetting.session)?.count ?? 0})} />`}`
}

/** The memories of a session, or those that a search has found. */
function Found({shown, scope, onBack}) {
  const [state, setState] = useState(/** @type {any} */ ({rows: null, error: undefined, next: null, turn: 0}))
  const [open, setOpen] = useState(null)
  const load = async (after = "") => {
    try {
      if (shown.query !== undefined) {
        const {results} = await post("/memory/search", {query: shown.query, limit: 50, ...given(scope)})
        setState({rows: results, next: null})
      } else {
        const page = await get(`/memory/sessions/${encodeURIComponent(shown.session)}?limit=200&${scopeQuery(scope)}${after && `&after=${encodeURIComponent(after)}`}`)
        setState(before => ({error: undefined, rows: after ? [...before.rows, ...page.memories] : page.memories, next: page.next}))
      }
    } catch (error) {
      setState(before => ({...before, error, rows: error.status === 404 ? [] : before.rows}))
    }
  }
  const asked = useRef("")
  const further = () => {
    if (asked.current === state.next) return // it is on its way
    asked.current = state.next
    load(state.next).finally(() => { asked.current = "" })
  }
  useEffect(() => { load() }, [])
  const columns = [
    {key: "content", title: t("memory.content"), cell: each => html`<span title=${each.content}>${each.content}</span>`},
    ...(shown.query === undefined ? [] : [
      {key: "relevance", title: t("memory.relevance"), numeric: true, cell: each => each.relevance.toFixed(2)},
      {key: "session", title: t("memory.session"), cell: each => each.session_id}]),
    {key: "type", title: t("memory.type"), cell: each => each.memory_type},
    {key: "created", title: t("jobs.created"), cell: each => html`<${When} at=${each.created_at} />`},
  ]
  return html`
    <div class="title-row"><button class="quiet" onClick=${onBack}>← ${t("memory.sessions")}</button>
      <h2 class="name">${shown.session ?? t("memory.for_query", {query: shown.query})}</h2>
      ${state.rows && html`<span class="dim" role="status">${t("memory.found", {count: state.rows.length})}</span>`}</div>
    <${Failure} error=${state.error} />
    ${!state.rows ? !state.error && html`<${Waiting} />` : state.rows.length === 0
      ? html`<${Empty} title=${t("search.nothing")}><p>${t("memory.nothing_hint")}</p><//>`
      : html`<${Table} label=${t("services.memory")} columns=${columns} rows=${state.rows} id=${each => each.id} onOpen=${setOpen}
          onEnd=${state.next && !state.error ? further : null} />`}
    ${state.next && html`<button class="wide" onClick=${further}>${t("services.further")}</button>`}
    ${open && html`<${OneMemory} key=${open.id} memory=${open} scope=${given(scope)} onClose=${() => setOpen(null)} onChange=${() => { setOpen(null); load() }} />`}`
}
