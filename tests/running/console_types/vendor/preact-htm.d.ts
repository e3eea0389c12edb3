// The parts of htm's bundle of Preact that the console uses. The bundle carries no types of its own.
// A state or reference that begins empty may hold anything: JSDoc at its place can say more.

/** What a template may hold: a listener gets any event, a component any properties. */
type Value = ((...given: any[]) => any) | {} | null | undefined
type Update<T> = T | ((before: T) => T)

export interface VNode { type: unknown; props: Record<string, any>; key: unknown }

export function html(parts: TemplateStringsArray, ...values: Value[]): VNode
export function render(tree: VNode, parent: Element | null): void
export function h(type: unknown, properties: object | null, ...children: unknown[]): VNode

export function useState(initial?: null | undefined | never[]): [any, (next: any) => void]
export function useState(initial: boolean): [boolean, (next: Update<boolean>) => void]
export function useState(initial: number): [number, (next: Update<number>) => void]
export function useState(initial: string): [string, (next: Update<string>) => void]
export function useState<T>(initial: T | (() => T)): [T, (next: Update<T>) => void]
export function useReducer<T, A>(reduce: (before: T, action: A) => T, initial: T): [T, (action: A) => void]
export function useRef(initial?: null | never[]): {current: any}
export function useRef<T>(initial: T): {current: T}
export function useEffect(act: () => void | (() => void), needs?: readonly unknown[]): void
export function useLayoutEffect(act: () => void | (() => void), needs?: readonly unknown[]): void
export function useMemo<T>(make: () => T, needs: readonly unknown[]): T
export function useCallback<F extends (...given: any[]) => any>(act: F, needs: readonly unknown[]): F
export function useErrorBoundary(tell?: (error: any) => void): [any, () => void]
export function createContext<T>(value: T): {Provider: unknown; Consumer: unknown}
export function useContext(context: {Provider: unknown}): any
