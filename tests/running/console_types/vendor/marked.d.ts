export * from "marked"
