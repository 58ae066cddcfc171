"""Options that commands share which ask a running SN."""

import click

sn_option = click.option(
    "--sn", required=True, envvar="SWARM_SN", show_envvar=True, metavar="HOST:PORT", help="Own SN's API."
)

sign_key_option = click.option(
    "--sign-key", metavar="FILE", help="Signing key; default: beside the certificate, made if missing."
)
