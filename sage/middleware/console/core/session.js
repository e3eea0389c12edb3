/**
 * Who uses the console. The refresh token is in a cookie that no script can read, the access token in this module alone:
 * both are gone with the page. A gateway without accounts (`--no-auth`) has no session: everybody may do everything.
 */
import {computed, signal} from "./html.js"

/** @typedef {{user: string, role: string, tenant: string, scopes: string[]}} User */

/** What `/auth/me` says; `undefined` until it is known, `null` for nobody. */
export const me = signal(/** @type {User | null | undefined} */ (undefined))
/** How a person can log in (`/auth/options`). */
export const options = signal({accounts: true, setup: false, single_sign_on: false, session: false})
/** Whether the gateway has accounts. */
export const hasAccounts = signal(true)
/** Whether the user may do what a scope allows. */
export const may = computed(() => (/** @type {string} */ scope) => {
  const found = me.value
  return !!found && (!hasAccounts.value || found.scopes.includes(scope) || found.scopes.includes("admin"))
})

const EARLY = 30 // seconds before its end that a token is renewed
let token = ""
let ends = 0
/** @type {Promise<string> | null} */
let renewing = null

/** The access token, renewed where it is about to end; empty for nobody. */
export async function accessToken({renew = false} = {}) {
  if (!hasAccounts.peek()) return ""
  if (token && !renew && Date.now() / 1000 < ends - EARLY) return token
  if (!token && me.peek() === null) return ""
  renewing ??= refresh().finally(() => { renewing = null })
  return renewing
}

async function refresh() {
  const answer = await fetch("/auth/refresh", {method: "POST", cache: "no-store"}).catch(() => null)
  if (answer === null) return token
  if (!answer.ok) {
    token = ""
    return ""
  }
  keep(await answer.json())
  return token
}

function keep(login) {
  token = login.access_token
  ends = Date.now() / 1000 + login.expires_in
}

/** Takes up the session of the browser's cookie, if there is one. */
export async function resume() {
  options.value = await (await fetch("/auth/options", {cache: "no-store"})).json()
  hasAccounts.value = options.peek().accounts
  if (!hasAccounts.peek()) {
    me.value = {user: "local", role: "admin", tenant: "local", scopes: ["admin"]}
    return
  }
  me.value = options.peek().session && await accessToken() ? await whoAmI() : null
}

async function whoAmI() {
  const answer = await fetch("/auth/me", {headers: {authorization: `Bearer ${token}`}, cache: "no-store"})
  return answer.ok ? answer.json() : null
}

/** Logs in; returns the answer of the gateway if it refuses. */
export async function logIn(username, password) {
  const body = new URLSearchParams({username, password, session: "cookie"})
  const answer = await fetch("/auth/token", {method: "POST", body, cache: "no-store"})
  if (!answer.ok) return answer
  keep(await answer.json())
  me.value = await whoAmI()
  return null
}

/**
 * Ends the session at the gateway, also where the access token has run out meanwhile. Returns false where the gateway does not
 * answer: then the browser still has its cookie, and the user is not logged out.
 */
export async function logOut() {
  for (const renew of [false, true]) {
    const held = await accessToken({renew})
    if (!held) break // the cookie was good for nothing any more
    const answer = await fetch("/auth/logout", {method: "POST", headers: {authorization: `Bearer ${held}`}}).catch(() => null)
    if (answer === null) return false
    if (answer.ok) break
    if (answer.status !== 401) return false
  }
  sessionEnded()
  return true
}

/** Forgets the session: the gateway takes it for ended. */
export function sessionEnded() {
  token = ""
  if (hasAccounts.peek() && me.peek() !== undefined) me.value = null
}
