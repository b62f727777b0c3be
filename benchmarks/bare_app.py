"""The smallest typer application of two commands: what `quant --help` and `quant inspect` are measured against."""

import typer

app = typer.Typer()


@app.command()
def first(name: str, count: int = 1) -> None:
    """Say a name."""
    print(name * count)


@app.command()
def second(name: str) -> None:
    """Say it once."""
    print(name)


if __name__ == "__main__":
    app()
