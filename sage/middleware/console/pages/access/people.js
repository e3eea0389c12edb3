/** Users and teams, for admins and owners. */
import {BudgetFields, LimitFields, readBudget, readLimits} from "../../components/budget_fields.js"
import {FormDialog} from "../../components/form_dialog.js"
import {Failure, Waiting} from "../../components/notice.js"
import {PageHead} from "../../components/page_head.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {get, post} from "../../core/api.js"
import {number} from "../../core/format.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {place} from "../../core/router.js"
import {may} from "../../core/session.js"
import {amount} from "../usage/budgets.js"
import {OneTeam} from "./one_team.js"
import {OneUser, PasswordField, RoleField, TeamField} from "./one_user.js"
import {TextField, patternText} from "./rights.js"

export function People() {
  const users = useLoaded(stop => get("/auth/users", stop))
  const teams = useLoaded(stop => get("/auth/teams", stop))
  const [open, setOpen] = useState(/** @type {any} */ (Object.fromEntries(place.peek().query)))
  const close = () => setOpen({})
  const reload = () => { users.reload(); teams.reload() }
  const user = users.data?.users.find(each => each.name === open.user)
  const team = teams.data?.teams.find(each => each.id === open.team || each.name === open.team)
  const live = (teams.data?.teams ?? []).filter(each => !each.deleted)
  return html`
    <${PageHead} title=${t("page.people")} hint=${t("people.hint")}>
      <button class="primary" onClick=${() => setOpen({making: "user"})}>${t("people.add_user")}</button>
      ${may.peek()("admin") && html`<button onClick=${() => setOpen({making: "team"})}>${t("people.add_team")}</button>`}<//>
    <${Failure} error=${users.error ?? teams.error} retry=${reload} />
    ${!users.data || !teams.data ? !(users.error ?? teams.error) && html`<${Waiting} />` : html`
      <${Table} label=${t("people.users")} columns=${userColumns()} rows=${users.data.users} id=${each => each.name} onOpen=${each => setOpen({user: each.name})} />
      <h2>${t("people.teams")}</h2>
      <${Table} label=${t("people.teams")} columns=${teamColumns()} rows=${live} id=${each => each.id} onOpen=${each => setOpen({team: each.id})} />`}
    ${user && html`<${OneUser} key=${user.name} user=${user} teams=${live} onClose=${close} onChanged=${reload} />`}
    ${team && html`<${OneTeam} key=${team.id} team=${team} onClose=${close} onChanged=${reload} />`}
    ${open.making === "user" && html`<${NewUser} teams=${live} onClose=${() => { close(); reload() }} />`}
    ${open.making === "team" && html`<${OneTeam} onClose=${close} onChanged=${reload} />`}`
}

const spent = budget => !budget ? "–" : `${amount(budget, budget.spent)} / ${amount(budget, budget.usd ?? budget.tokens)}`

const userColumns = () => [
  {key: "name", title: t("people.name"), cell: user => user.name},
  {key: "role", title: t("people.role"), cell: user => t(`role.${user.role}`)},
  {key: "tenant", title: t("people.team"), cell: user => user.tenant},
  {key: "budget", title: t("people.budget"), cell: user => spent(user.budget)},
  {key: "login", title: t("people.last_login"), cell: user => html`<${When} at=${user.last_login_at} />`},
  {key: "state", title: t("models.state"), cell: user => html`<span class=${`badge ${user.disabled ? "bad" : "good"}`}>${t(user.disabled ? "people.disabled" : "people.active")}</span>`},
]

const teamColumns = () => [
  {key: "id", title: t("people.team"), cell: team => team.name},
  {key: "members", title: t("people.members"), numeric: true, cell: team => number(team.members)},
  {key: "keys", title: t("people.keys"), numeric: true, cell: team => number(team.keys)},
  {key: "models", title: t("keys.models"), cell: team => patternText(team.models)},
  {key: "budget", title: t("people.budget"), cell: team => spent(team.budget)},
  {key: "note", title: t("people.note"), cell: team => team.note || "–"},
]

function NewUser({teams, onClose}) {
  const send = form => {
    const limits = readLimits(form)
    const budget = readBudget(form)
    return post("/auth/users", {username: String(form.get("username")).trim(), password: form.get("password"), role: form.get("role"),
      ...(form.get("tenant") ? {tenant: form.get("tenant")} : {}), ...(limits ? {limits} : {}), ...(budget ? {budget} : {})})
  }
  return html`
    <${FormDialog} title=${t("people.add_user")} action=${t("people.add")} send=${send} onClose=${onClose}>
      <${TextField} label=${t("login.user")} name="username" required />
      <${PasswordField} /><${RoleField} /><${TeamField} teams=${teams} value="default" />
      <details class="further"><summary>${t("keys.further")}</summary><${LimitFields} /><${BudgetFields} /></details>
    <//>`
}
