/** What is not well, and where it is mended. */
import {Failure} from "../../components/notice.js"
import {get} from "../../core/api.js"
import {bytes, number} from "../../core/format.js"
import {html, useLoaded} from "../../core/html.js"
import {t} from "../../core/language.js"
import {address} from "../../core/router.js"
import {hasAccounts, may} from "../../core/session.js"
import {called} from "../usage/budgets.js"

const NEAR = 0.8 // of a budget
const TIGHT = 2 * 1024 ** 3 // bytes of disk
const SHOWN = 12
/** Where a part that cannot serve is seen to. */
const ROOMS = {queue: "jobs", limits: "limits", usage: "settings", mcp: "mcp"}

/** What a route answers where the user may ask it; else nothing. A route that fails is no trouble of its own here. */
const maybe = (allowed, path, stop) => allowed ? get(path, stop).catch(() => null) : null

async function load(stop) {
  const allowed = may.peek()
  const [ready, budgets, dead, mcp] = await Promise.all([
    get("/ready", stop).catch(error => { if (error.status === 503) return {status: "not_ready"}; throw error }),
    maybe(allowed("usage"), "/budgets", stop),
    maybe(allowed("tasks") && hasAccounts.peek(), "/tasks?state=dead&limit=100", stop),
    maybe(allowed("tools"), "/mcp/servers", stop),
  ])
  return {ready, budgets: budgets?.budgets ?? [], dead: dead?.tasks ?? [], servers: mcp?.servers ?? []}
}

/** Each: what it is about, why, the page where it is mended, and what to do there. */
export function troubles({ready, models, budgets, dead, servers}) {
  const found = []
  const add = (name, why, href, act, grave = true) => found.push({name, why, href, act, grave})
  if (ready.status !== "ready") add(t("page.models"), t("overview.nothing_serves"), address("models"), t("todo.models"))
  for (const [what, why] of Object.entries(ready.cannot_serve ?? {})) {
    const room = ROOMS[what.split(":")[0]]
    add(what, why, address(room ?? "models"), t(room ? "todo.look" : "todo.provider"))
  }
  for (const {name, state, error, deployments} of models) {
    if (state === "failed") add(name, error?.message ?? t("state.failed"), address("models", name), t("todo.load"))
    for (const {provider, model, breaker} of deployments) {
      if (breaker.state !== "closed") add(`${name}: ${provider}/${model}`, `${t("todo.skipped")} ${breaker.last_failure ?? ""}`, address("models", name), t("todo.breaker"))
    }
  }
  for (const budget of budgets) {
    const share = budget.spent / (budget.usd ?? budget.tokens)
    if (share >= NEAR) add(called(budget), t("todo.spent", {percent: Math.floor(share * 100)}), address("usage"), t("todo.budget"), share >= 1)
  }
  if (dead.length > 0) add(t("page.jobs"), t("todo.dead", {count: number(dead.length)}), address("jobs"), t("todo.retry"))
  for (const {name, held} of servers) if (held > 0) add(`MCP ${name}`, t("mcp.held", {count: number(held)}), address("mcp"), t("todo.accept"), false)
  const {disk} = ready
  if (disk && disk.free < Math.min(TIGHT, disk.total / 10)) {
    add(t("todo.disk"), t("todo.disk_left", {free: bytes(disk.free), total: bytes(disk.total)}), address("settings"), t("todo.disk_act"), disk.free < TIGHT / 8)
  }
  return found
}

/** `turn` changes when it is worth while to look again; `models` are their states as they are now. */
export function Troubles({turn, models}) {
  const {data, error, reload} = useLoaded(load, [turn])
  if (error) return html`<${Failure} error=${error} retry=${reload} />`
  if (!data || !models) return null
  const found = troubles({...data, models})
  if (found.length === 0) return html`<p class="notice good" role="status">${t("overview.well")}</p>`
  return html`
    <section class="troubles" aria-labelledby="troubles">
      <h2 id="troubles">${t("overview.not_well")} <span class=${`badge ${found.some(each => each.grave) ? "bad" : "busy"}`}>${found.length}</span></h2>
      <ul>${found.slice(0, SHOWN).map(({name, why, href, act, grave}, index) => html`
        <li key=${index} class=${grave ? "grave" : ""}><span><strong class="name">${name}</strong> <span class="name">${why}</span></span>
          <a class="button small" href=${href}>${act}</a></li>`)}</ul>
      ${found.length > SHOWN && html`<p class="dim">${t("overview.and_more", {count: found.length - SHOWN})}</p>`}
    </section>`
}
