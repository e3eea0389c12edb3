/** Users and teams, for admins and owners. */
import {Dialog} from "../../components/dialog.js"
import {Field} from "../../components/field.js"
import {Failure, Waiting} from "../../components/notice.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {get, patch, post} from "../../core/api.js"
import {money, number} from "../../core/format.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {may} from "../../core/session.js"

const ROLES = ["user", "viewer", "owner", "admin"]

export function People() {
  const users = useLoaded(stop => get("/auth/users", stop))
  const teams = useLoaded(stop => get("/auth/teams", stop))
  const [dialog, setDialog] = useState("")
  const [failed, setFailed] = useState(undefined)
  const close = () => { setDialog(""); users.reload(); teams.reload() }
  const disable = async user => {
    setFailed(undefined)
    try { await patch("/auth/users", {username: user.name, disabled: !user.disabled}) } catch (problem) { setFailed(problem) }
    users.reload()
  }
  const userColumns = [
    {key: "name", title: t("people.name"), cell: user => user.name},
    {key: "role", title: t("people.role"), cell: user => t(`role.${user.role}`)},
    {key: "tenant", title: t("people.team"), cell: user => user.tenant},
    {key: "budget", title: t("people.budget"), cell: user => spent(user.budget)},
    {key: "login", title: t("people.last_login"), cell: user => html`<${When} at=${user.last_login_at} />`},
    {key: "state", title: t("models.state"), cell: user => t(user.disabled ? "people.disabled" : "people.active")},
    {key: "act", title: t("keys.actions"), cell: user => html`
      <button class="quiet small" onClick=${() => disable(user)}>${t(user.disabled ? "people.enable" : "people.disable")}</button>`},
  ]
  const teamColumns = [
    {key: "id", title: t("people.team"), cell: team => team.name || team.id},
    {key: "members", title: t("people.members"), numeric: true, cell: team => number(team.members)},
    {key: "keys", title: t("people.keys"), numeric: true, cell: team => number(team.keys)},
    {key: "models", title: t("keys.models"), cell: team => team.models.includes("*") ? t("keys.all_models") : team.models.join(", ")},
    {key: "budget", title: t("people.budget"), cell: team => spent(team.budget)},
    {key: "created", title: t("jobs.created"), cell: team => html`<${When} at=${team.created_at} />`},
  ]
  return html`
    <div class="title-row"><h1>${t("page.people")}</h1>
      <button class="primary" onClick=${() => setDialog("user")}>${t("people.add_user")}</button>
      ${may.peek()("admin") && html`<button onClick=${() => setDialog("team")}>${t("people.add_team")}</button>`}</div>
    <${Failure} error=${users.error ?? teams.error ?? failed} />
    ${!users.data || !teams.data ? html`<${Waiting} />` : html`
      <${Table} label=${t("people.users")} columns=${userColumns} rows=${users.data.users} id=${user => user.name} />
      <h2>${t("people.teams")}</h2>
      <${Table} label=${t("people.teams")} columns=${teamColumns} rows=${teams.data.teams} id=${team => team.id} />`}
    ${dialog === "user" && html`<${NewUser} teams=${teams.data?.teams ?? []} onClose=${close} />`}
    ${dialog === "team" && html`<${NewTeam} onClose=${close} />`}`
}

const spent = budget => !budget ? "–" : budget.usd === undefined || budget.usd === null
  ? `${number(budget.spent)} / ${number(budget.tokens)}` : `${money(budget.spent)} / ${money(budget.usd)}`

/** A dialog with a form whose fields are sent. */
function Adding({title, send, onClose, children}) {
  const [error, setError] = useState(undefined)
  const submit = async event => {
    event.preventDefault()
    const fields = Object.fromEntries([...new FormData(event.target)].filter(([, value]) => value !== ""))
    try {
      await send(fields)
      onClose()
    } catch (failed) {
      setError(failed)
    }
  }
  return html`
    <${Dialog} title=${title} onClose=${onClose}><form onSubmit=${submit}>${children}
      <${Failure} error=${error} />
      <div class="actions"><button type="button" class="quiet" onClick=${onClose}>${t("action.cancel")}</button>
        <button class="primary">${t("people.add")}</button></div></form><//>`
}

/** The budget that two fields of a form make, if they are filled in. */
const withBudget = ({usd, window, ...fields}) => usd ? {...fields, budget: {usd: Number(usd), window}} : fields

const BudgetFields = () => html`
  <${Field} label=${t("people.budget_usd")} hint=${t("people.budget_hint")}>${field => html`
    <input ...${field} name="usd" type="number" min="0" step="0.01" />`}<//>
  <${Field} label=${t("people.window")}>${field => html`
    <select ...${field} name="window">${["month", "week", "day", "total"].map(each => html`
      <option key=${each} value=${each}>${t(`window.${each}`)}</option>`)}</select>`}<//>`

const NewUser = ({teams, onClose}) => html`
  <${Adding} title=${t("people.add_user")} send=${fields => post("/auth/users", withBudget(fields))} onClose=${onClose}>
    <${Field} label=${t("login.user")}>${field => html`<input ...${field} name="username" required autocomplete="off" />`}<//>
    <${Field} label=${t("login.password")} hint=${t("setup.password_hint")}>${field => html`
      <input ...${field} name="password" type="password" required autocomplete="new-password" />`}<//>
    <${Field} label=${t("people.role")}>${field => html`
      <select ...${field} name="role">${ROLES.filter(role => role !== "admin" || may.peek()("admin")).map(role => html`
        <option key=${role} value=${role}>${t(`role.${role}`)}</option>`)}</select>`}<//>
    ${teams.length > 1 && html`<${Field} label=${t("people.team")}>${field => html`
      <select ...${field} name="tenant">${teams.map(team => html`<option key=${team.id} value=${team.name}>${team.name}</option>`)}</select>`}<//>`}
    <${BudgetFields} />
  <//>`

const NewTeam = ({onClose}) => html`
  <${Adding} title=${t("people.add_team")} send=${fields => post("/auth/teams", withBudget(fields))} onClose=${onClose}>
    <${Field} label=${t("people.name")}>${field => html`<input ...${field} name="name" required autocomplete="off" />`}<//>
    <${Field} label=${t("people.note")}>${field => html`<input ...${field} name="note" />`}<//>
    <${BudgetFields} />
  <//>`
