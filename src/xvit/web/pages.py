"""The page at `/`, the API's at `/docs`, and the files they are made of: all of it comes from the package."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse

from xvit.web.limits import Refused
from xvit.web.service import Service

STATIC = Path(__file__).parent / "static"
FILES = {
    "style.css": Path(__file__).parents[1] / "report" / "templates" / "style.css",  # the reports' own
    "page.css": STATIC / "page.css",
    "page.js": STATIC / "page.js",
    "chart.js": STATIC / "chart.js",
}


def add_pages(app: FastAPI, service: Service, name: str, *, asks_token: bool) -> None:
    """Add the pages; they hold nothing that a token protects."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(STATIC), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    about = {"limits": asdict(service.limits), "token": asks_token}

    @app.get("/", include_in_schema=False)
    def page() -> HTMLResponse:
        template = templates.get_template("page.html")
        return HTMLResponse(
            template.render(
                name=name,
                about=about,
                explains=service.explains,
                several_labels=service.several_labels,
            )
        )

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        template = templates.get_template("docs.html")
        return HTMLResponse(
            template.render(name=name, operations=operations(app.openapi()), token=asks_token)
        )

    @app.get("/static/{file}", include_in_schema=False)
    def static(file: str) -> FileResponse:
        if file not in FILES:
            raise Refused(404, f"no file {file}")
        return FileResponse(FILES[file], headers={"Cache-Control": "no-cache"})


def operations(openapi: dict[str, Any]) -> list[dict[str, Any]]:
    """The routes of an OpenAPI description, their references resolved, for the template."""
    found = []
    for path, methods in openapi["paths"].items():
        for method, about in methods.items():
            answers = [
                (status, answer["description"], _fields(answer, openapi))
                for status, answer in about["responses"].items()
            ]
            found.append(
                {
                    "path": path,
                    "method": method.upper(),
                    "summary": about.get("description", about["summary"]),
                    "upload": "requestBody" in about,
                    "parameters": about.get("parameters", []),
                    "answers": answers,
                }
            )
    return found


def _fields(answer: dict[str, Any], openapi: dict[str, Any]) -> list[str]:
    schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    return list(openapi["components"]["schemas"][name]["properties"]) if name else []
