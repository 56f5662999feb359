import os
import platform

from flask import Flask

app = Flask(__name__)


@app.get("/")
def home():
    name = os.environ.get("MINI_APP", "python")
    release = os.environ.get("MINI_RELEASE", "here")
    text = f"hello from {name} {release}, on python {platform.python_version()}\n"
    return text, {"Content-Type": "text/plain; charset=utf-8"}


@app.get("/up")
def up():
    return "up\n", {"Content-Type": "text/plain; charset=utf-8"}
