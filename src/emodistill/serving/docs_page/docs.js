// Shows the OpenAPI document of this server with Swagger UI, which loads nothing from any other place.

// Swagger UI fills each field of a form, and would invent values for those that are optional. It knows files by
// their format, which OpenAPI 3.1 no longer has.
function prepareForms(document) {
  for (const schema of Object.values(document.components.schemas)) {
    for (const [name, field] of Object.entries(schema.properties ?? {})) {
      if (!(schema.required ?? []).includes(name) && !("default" in field)) {
        delete field.examples;
        field.example = "";
      }
      for (const file of [field, field.items ?? {}]) {
        if (file.contentMediaType) {
          file.format = "binary";
        }
      }
    }
  }
  return document;
}

// The server refuses empty fields, and Swagger UI sends those that the reader did not fill.
function leaveOutEmptyFields(request) {
  if (request.body instanceof FormData) {
    for (const [name, value] of [...request.body]) {
      if (value === "") {
        request.body.delete(name);
      }
    }
  }
  return request;
}

// Swagger UI's own style for the dark needs a class.
const dark = matchMedia("(prefers-color-scheme: dark)");
const followScheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", followScheme);
followScheme();

const answer = await fetch("openapi.json");
window.SwaggerUIBundle({
  spec: prepareForms(await answer.json()),
  dom_id: "#interface",
  requestInterceptor: leaveOutEmptyFields,
  deepLinking: true,
  validatorUrl: null, // the default sends the document to a server of swagger.io
  defaultModelsExpandDepth: 0,
});
