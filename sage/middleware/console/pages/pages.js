/** The pages, in the order of the menu, each with who may see it. */
import {Account} from "./access/account.js"
import {Audit} from "./access/audit.js"
import {Connect} from "./connect/connect.js"
import {Jobs} from "./jobs/jobs.js"
import {Keys} from "./access/keys.js"
import {Limits} from "./access/limits.js"
import {Mcp} from "./mcp/mcp.js"
import {Models} from "./models/models.js"
import {Overview} from "./overview/overview.js"
import {People} from "./access/people.js"
import {Playground} from "./playground/playground.js"
import {Requests} from "./requests/requests.js"
import {Search} from "./search/search.js"
import {Settings} from "./settings/settings.js"
import {Services} from "./services/services.js"
import {Usage} from "./usage/usage.js"
import {hasAccounts} from "../core/session.js"

const all = (...scopes) => may => scopes.every(may)
const any = (...scopes) => may => scopes.some(may)

export const PAGES = [
  {name: "overview", group: "use", view: Overview, isFor: all("models:read")},
  {name: "playground", group: "use", view: Playground, isFor: all("generate", "models:read")},
  {name: "connect", group: "use", view: Connect, isFor: all("models:read")},
  {name: "models", group: "run", view: Models, isFor: all("models:read")},
  {name: "search", group: "run", view: Search, isFor: all("search")},
  {name: "services", group: "run", view: Services, isFor: any("services:read", "memory", "kv", "vdb")},
  {name: "jobs", group: "run", view: Jobs, isFor: all("tasks")},
  {name: "mcp", group: "run", view: Mcp, isFor: all("tools")},
  {name: "requests", group: "watch", view: Requests, isFor: all("usage")},
  {name: "usage", group: "watch", view: Usage, isFor: all("usage")},
  {name: "keys", group: "govern", view: Keys, isFor: all("account")},
  {name: "people", group: "govern", view: People, isFor: may => hasAccounts.peek() && may("tenant:admin")},
  {name: "limits", group: "govern", view: Limits, isFor: all("usage")},
  {name: "audit", group: "govern", view: Audit, isFor: may => hasAccounts.peek() && may("tenant:admin")},
  {name: "settings", group: "govern", view: Settings, isFor: may => hasAccounts.peek() && may("admin")},
  {name: "account", group: "govern", view: Account, isFor: may => hasAccounts.peek() && may("account")},
]
