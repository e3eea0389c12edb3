/** The pages, in the order of the menu, each with who may see it. What draws one is loaded when it is first shown. */
import {hasAccounts} from "../core/session.js"

const all = (...scopes) => may => scopes.every(may)
const any = (...scopes) => may => scopes.some(may)

export const PAGES = [
  {name: "overview", group: "use", load: () => import("./overview/overview.js").then(room => room.Overview), isFor: all("models:read")},
  {name: "playground", group: "use", load: () => import("./playground/playground.js").then(room => room.Playground), isFor: all("generate", "models:read")},
  {name: "connect", group: "use", load: () => import("./connect/connect.js").then(room => room.Connect), isFor: all("models:read")},
  {name: "models", group: "run", load: () => import("./models/models.js").then(room => room.Models), isFor: all("models:read")},
  {name: "search", group: "run", load: () => import("./search/search.js").then(room => room.Search), isFor: all("search")},
  {name: "services", group: "run", load: () => import("./services/services.js").then(room => room.Services), isFor: any("services:read", "memory", "kv", "vdb")},
  {name: "jobs", group: "run", load: () => import("./jobs/jobs.js").then(room => room.Jobs), isFor: all("tasks")},
  {name: "mcp", group: "run", load: () => import("./mcp/mcp.js").then(room => room.Mcp), isFor: all("tools")},
  {name: "requests", group: "watch", load: () => import("./requests/requests.js").then(room => room.Requests), isFor: all("usage")},
  {name: "usage", group: "watch", load: () => import("./usage/usage.js").then(room => room.Usage), isFor: all("usage")},
  {name: "keys", group: "govern", load: () => import("./access/keys.js").then(room => room.Keys), isFor: all("account")},
  {name: "people", group: "govern", load: () => import("./access/people.js").then(room => room.People), isFor: may => hasAccounts.peek() && may("tenant:admin")},
  {name: "limits", group: "govern", load: () => import("./access/limits.js").then(room => room.Limits), isFor: all("usage")},
  {name: "audit", group: "govern", load: () => import("./access/audit.js").then(room => room.Audit), isFor: may => hasAccounts.peek() && may("tenant:admin")},
  {name: "settings", group: "govern", load: () => import("./settings/settings.js").then(room => room.Settings), isFor: may => hasAccounts.peek() && may("admin")},
  {name: "account", group: "govern", load: () => import("./access/account.js").then(room => room.Account), isFor: may => hasAccounts.peek() && may("account")},
]
