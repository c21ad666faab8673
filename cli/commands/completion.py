"""Define alexnet-dali completion: print what makes a shell complete the other commands."""

import click
from click.shell_completion import get_completion_class

from cli.display import say


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print a script for completion in a shell.

    SHELL then completes commands, options and choices when you press Tab. To set it up:

    \b
    bash  eval "$(alexnet-dali completion bash)"          in ~/.bashrc
    zsh   eval "$(alexnet-dali completion zsh)"           in ~/.zshrc
    fish  alexnet-dali completion fish > ~/.config/fish/completions/alexnet-dali.fish
    """
    kind = get_completion_class(shell)
    assert kind  # click knows all three
    script = kind(context.find_root().command, {}, "alexnet-dali", "_ALEXNET_DALI_COMPLETE").source()
    for line in script.splitlines():
        say(line)
