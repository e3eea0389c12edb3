/** Logging in, and the first admin: a new gateway has a set-up token in a file of its data directory. */
import {Choices} from "../components/shell.js"
import {Field} from "../components/field.js"
import {Failure} from "../components/notice.js"
import {failure} from "../core/api.js"
import {html, useEffect, useSignal, useState} from "../core/html.js"
import {t} from "../core/language.js"
import {go, place} from "../core/router.js"
import {logIn, options} from "../core/session.js"

export function Welcome() {
  const {page, query} = useSignal(place)
  const setup = page === "setup" || (page === "" && options.peek().setup)
  const [token] = useState(query.get("token") ?? "")
  const [failed] = useState(query.get("failed"))
  useEffect(() => { // neither the address nor the history keeps what was in it
    if (token || failed) history.replaceState(null, "", `#/${page}`)
  }, [])
  useEffect(() => { document.title = `${t(setup ? "setup.title" : "login.title")} · SAGE` }, [setup])
  return html`
    <div class="welcome">
      <div class="corner"><${Choices} /></div>
      <main class="card">
        <img src="/console/icon.svg" alt="" width="48" height="48" />
        ${setup ? html`<${Setup} token=${token} />` : html`<${Login} failed=${failed} />`}
      </main>
    </div>`
}

/** A form that does `act` with its fields and shows what fails. */
function Form({act, button, children}) {
  const [error, setError] = useState(undefined)
  const [busy, setBusy] = useState(false)
  const submit = async event => {
    event.preventDefault()
    setBusy(true)
    setError(undefined)
    try {
      const refusal = await act(Object.fromEntries(new FormData(event.target)))
      if (refusal) setError(await failure(refusal))
    } catch (failed) {
      setError(failed)
    }
    setBusy(false)
  }
  return html`
    <form onSubmit=${submit}>${children}<${Failure} error=${error} />
      <button class="primary wide" disabled=${busy}>${button}</button></form>`
}

/** @param {{failed: string | null}} properties  why a login at the provider failed */
function Login({failed}) {
  return html`
    <h1>${t("login.title")}</h1>
    ${failed && html`<div class="notice bad" role="alert"><p>${t("login.failed", {code: failed})}</p></div>`}
    <${Form} act=${({username, password}) => logIn(username, password)} button=${t("login.action")}>
      <${Field} label=${t("login.user")}>${field => html`
        <input ...${field} name="username" autocomplete="username" required autofocus />`}<//>
      <${Field} label=${t("login.password")}>${field => html`
        <input ...${field} name="password" type="password" autocomplete="current-password" required />`}<//>
    <//>
    ${options.peek().single_sign_on && html`
      <a class="button wide" href="/auth/oidc/login?next=/console">${t("login.single_sign_on")}</a>`}
    ${options.peek().setup && html`<p class="dim"><a href="#/setup">${t("login.first")}</a></p>`}`
}

function Setup({token}) {
  const act = async ({given, username, password}) => {
    const answer = await fetch("/auth/setup", {method: "POST", headers: {"content-type": "application/json"},
      body: JSON.stringify({token: given.trim(), username, password})})
    if (!answer.ok) return answer
    const refusal = await logIn(username, password)
    if (!refusal) go("playground")
    return refusal
  }
  return html`
    <h1>${t("setup.title")}</h1>
    <p class="dim">${t("setup.intro")}</p>
    <${Form} act=${act} button=${t("setup.action")}>
      <${Field} label=${t("setup.token")} hint=${t("setup.token_hint")}>${field => html`
        <input ...${field} name="given" defaultValue=${token} autocomplete="off" spellcheck="false" required />`}<//>
      <${Field} label=${t("login.user")}>${field => html`
        <input ...${field} name="username" autocomplete="username" required />`}<//>
      <${Field} label=${t("login.password")} hint=${t("setup.password_hint")}>${field => html`
        <input ...${field} name="password" type="password" autocomplete="new-password" required />`}<//>
    <//>
    <p class="dim"><a href="#/login">${t("setup.back")}</a></p>`
}
