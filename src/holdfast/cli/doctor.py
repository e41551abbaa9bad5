"""`holdfast doctor`."""

from holdfast.cli.app import Answer, Json, verb


@verb
def doctor(*, as_json: Json = False) -> Answer:
    """Say what is installed and whether the main job would run here."""
    from holdfast.terminal import doctor_table
    from holdfast.versions import diagnosis

    found = diagnosis()
    return Answer(found, lambda: doctor_table(found), as_json)
