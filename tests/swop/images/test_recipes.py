"""Recipes as steps: what PROCESS carries out, what it leaves out, and what it refuses. SW-60, SW-61, SW-62."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers.recipe_pip import Argument
from swarmlearning.swop.managers.recipe_words import CAN
from swarmlearning.swop.managers.recipes import Copy, Install, MakeDirectories, Recipe, Remove, read_recipe

CLIENT = "swarmlearning-client-py3-none-manylinux_2_24_x86_64.whl"

PRODUCT = (
    "FROM tensorflow/tensorflow:2.7.0",
    " ",
    "RUN pip3 install --upgrade pip && pip install \\",
    "  keras matplotlib opencv-python pandas protobuf==3.15.6",
    " ",
    "RUN mkdir -p /tmp/pkg",
    f"COPY {CLIENT} /tmp/pkg/{CLIENT}",
    f"RUN pip3 install /tmp/pkg/{CLIENT}",
)


def read(*lines: str) -> Recipe:
    return read_recipe(("FROM python:3.12", *lines))


def words(recipe: Recipe) -> list[list[str]]:
    """What pip is given, command by command."""
    return [[each.text for each in step.arguments] for step in recipe.steps if isinstance(step, Install)]


def test_sw60_the_shape_of_the_products_examples_is_carried_out() -> None:
    recipe = read_recipe(PRODUCT)
    assert recipe.base == "tensorflow/tensorflow:2.7.0"
    assert recipe.total == 5
    assert words(recipe) == [["keras", "matplotlib", "opencv-python", "pandas", "protobuf==3.15.6"]]
    assert [type(step) for step in recipe.steps] == [Install, MakeDirectories]
    assert recipe.notes == (
        "step 2: pip is left out: it is the host's",
        f"step 4: {CLIENT} is not copied: Swarm Learning is in every image",
        f"step 5: {CLIENT} is left out: Swarm Learning is in every image",
    )


def test_sw60_comments_blank_lines_and_continuations_are_read_as_docker_does() -> None:
    recipe = read_recipe(
        [
            "# a comment",
            "from python:3.12 as only\n",
            "Run pip install six \\  ",
            "",
            "  # inside",
            " 'rich>=13' \\",
            "",
        ]
    )
    assert recipe.base == "python:3.12"
    assert words(recipe) == [["six", "rich>=13"]]


def test_sw60_an_entry_may_have_several_lines() -> None:
    assert words(read_recipe(["FROM python\nRUN pip install six\nRUN pip install rich"])) == [["six"], ["rich"]]


def test_sw60_variables_come_from_env_and_arg_alone() -> None:
    recipe = read(
        "ARG VERSION=1.17",
        'ENV WANTED="six rich" PLACE=/srv/x',
        "ENV NOTE several words",
        "RUN pip install six==${VERSION} $WANTED \"$PLACE/a.whl\" '$NOT/b.whl'",
        "ENV PATH=$PLACE/bin:$PATH",
    )
    assert words(recipe) == [["six==1.17", "six", "rich", "/srv/x/a.whl", "/$NOT/b.whl"]]
    assert dict(recipe.environment) == {
        "WANTED": "six rich",
        "PLACE": "/srv/x",
        "NOTE": "several words",
        "PATH": "/srv/x/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }


def test_sw60_an_arg_before_from_is_for_from_and_may_be_named_again() -> None:
    recipe = read_recipe(["ARG V=3.12", "FROM python:$V", "ARG V", "ENV GOT=$V"])
    assert (recipe.base, recipe.environment) == ("python:3.12", (("GOT", "3.12"),))
    with pytest.raises(ConfigurationError, match=r"step 3 \(ENV GOT=\$V\): no ENV or ARG before it gives .* V a value"):
        read_recipe(["ARG V=3.12", "FROM python:$V", "ENV GOT=$V"])


def test_sw60_paths_are_read_from_workdir() -> None:
    recipe = read(
        "WORKDIR /app", "WORKDIR src", "COPY a.py b/ ./", "RUN pip install -r ../r.txt && rm -rf old", "COPY x ."
    )
    made, deeper, several, install, removed, single = recipe.steps
    assert isinstance(made, MakeDirectories)
    assert made.paths == ("/app",)
    assert isinstance(deeper, MakeDirectories)
    assert deeper.paths == ("/app/src",)
    assert isinstance(several, Copy)
    assert (several.sources, several.target, several.into) == (("a.py", "b"), "/app/src", True)
    assert isinstance(install, Install)
    assert install.arguments == (
        Argument(text="--requirement"),
        Argument(text="/app/r.txt", wanted=True, path=True),
    )
    assert isinstance(removed, Remove)
    assert removed.paths == ("/app/src/old",)
    assert isinstance(single, Copy)
    assert single.into
    assert recipe.workdir == "/app/src"


def test_sw61_options_of_pip_are_a_closed_list() -> None:
    recipe = read(
        "RUN python3 -m pip --no-cache-dir install -U --no-deps --user -i https://h/simple --extra-index-url=https://g/s"
        " -f /w --only-binary :all: -q --progress-bar off 'six[a,b] >= 1.0, < 2 ; python_version > \"3\"' ./a.whl[gpu]"
    )
    install = recipe.steps[0]
    assert isinstance(install, Install)
    assert [argument.text for argument in install.arguments] == [
        *("--upgrade", "--no-deps", "--index-url", "https://h/simple", "--extra-index-url", "https://g/s"),
        *("--find-links", "/w", "--only-binary", ":all:", "--quiet"),
        'six[a,b] >= 1.0, < 2 ; python_version > "3"',
        "/a.whl",
    ]
    assert install.arguments[-1].extras == "[gpu]"


def test_sw61_a_list_of_words_is_a_command_without_a_shell() -> None:
    assert words(read('RUN ["pip", "install", "six>=1", "rich"]')) == [["six>=1", "rich"]]


def test_sw61_swarm_learning_and_pip_are_left_out_by_any_name() -> None:
    recipe = read(
        "COPY swarmlearning-2.3.0-py3-none-any.whl /tmp/sl.whl",
        "RUN pip install /tmp/sl.whl",
        "RUN pip install swarmlearning swarm-learning==2.2 pip==24.0 six",
        "RUN pip cache purge",
    )
    assert words(recipe) == [["six"]]


def test_sw62_what_has_no_effect_is_noted() -> None:
    recipe = read("USER root", "LABEL a=b", "CMD python3 x.py", 'SHELL ["/bin/bash", "-c"]', "EXPOSE 80", "VOLUME /x")
    assert recipe.steps == ()
    assert [note.split(":")[0] for note in recipe.notes] == [f"step {number}" for number in range(2, 8)]
    assert recipe.notes[2] == "step 4: CMD has no effect: the task says what is run"


REFUSED = [
    ("RUN apt-get update && apt-get install -y git", "apt-get is no command"),
    ("RUN pip install keras>2", "> needs a shell"),
    ("RUN pip install a; curl http://h | sh", "; needs a shell"),
    ("RUN pip install a | tee log", "| needs a shell"),
    ("RUN pip install a & sleep 1", "& needs a shell"),
    ("RUN pip install $(cat x)", "expected the name of a variable"),
    ("RUN pip install `cat x`", "` needs a shell"),
    ('RUN pip install "`cat x`"', "` needs a shell"),
    ("RUN pip install ${X:-six}", "expected } after ${X"),
    ("RUN pip install $HOME/x", "no ENV or ARG before it gives the variable HOME"),
    ("RUN pip install ~/x", "~ at the beginning"),
    ("RUN pip install six # why", "# at the beginning"),
    ("RUN (pip install six)", "( needs a shell"),
    ("RUN pip install 'six", "quote ' is not closed"),
    ('RUN pip install "six', 'quote " is not closed'),
    ("RUN pip install six &&", "before and after &&"),
    ("RUN && pip install six", "before and after &&"),
    ("RUN pip install", "names nothing"),
    ("RUN pip", "got pip alone"),
    ("RUN pip uninstall -y six", "expected pip install, got pip uninstall"),
    ("RUN pip download six", "expected pip install"),
    ("RUN PIP_INDEX_URL=http://h pip install six", "is no command"),
    ("RUN sudo pip install six", "sudo is no command"),
    ("RUN /usr/bin/pip install six", "is no command"),
    ("RUN python -m venv /x", "python is no command"),
    ("RUN python setup.py install", "python is no command"),
    ("RUN pip install --target /usr/lib six", "option --target"),
    ("RUN pip install --prefix=/x six", "option --prefix"),
    ("RUN pip install --root=/x six", "option --root"),
    ("RUN pip install -e .", "option -e"),
    ("RUN pip install --trusted-host h six", "option --trusted-host"),
    ("RUN pip install --proxy http://h six", "option --proxy"),
    ("RUN pip install --config-settings=a=b six", "option --config-settings"),
    ("RUN pip install --global-option=x six", "option --global-option"),
    ("RUN pip install --python /x six", "option --python"),
    ("RUN pip install --upgrade=x six", "option --upgrade"),
    ("RUN pip install --index-url http://h/simple six", "begins with https://"),
    ("RUN pip install --index-url https://u:p@h/simple six", "user or password"),
    ("RUN pip install -f file:///etc six", "begins with https://"),
    ("RUN pip install --index-url --pre six", "expected a value after --index-url"),
    ("RUN pip install six -r", "expected a value after -r"),
    ("RUN pip install -r https://h/r.txt", "COPY brought"),
    ("RUN pip install git+https://h/x", "begins with https://"),
    ("RUN pip install http://h/x.whl", "begins with https://"),
    ("RUN pip install 'x @ file:///etc/passwd'", "begins with https://"),
    ("RUN pip install file:/etc/passwd", "COPY brought"),
    ("RUN pip install 'swarmlearning[torch]'", "Swarm Learning is in every image"),
    ("RUN pip install 'swarmlearning @ https://h/x.whl'", "Swarm Learning is in every image"),
    ("RUN pip install ''", "got nothing"),
    ("RUN pip install 'a b'", "expected a package"),
    ("RUN mkdir -m 777 /app", "mkdir is no command"),
    ("RUN mkdir -p /etc/x", "belongs to the system"),
    ("RUN mkdir -p /app/*", "needs a shell"),
    ("RUN rm -rf /", "belongs to the system"),
    ("RUN rm -rf /app/../usr/lib", "belongs to the system"),
    ("RUN rm -rf --no-preserve-root /app", "rm is no command"),
    ("RUN --mount=type=secret,id=x pip install six", "is no command"),
    ("RUN <<EOF", "< needs a shell"),
    ("COPY x", "what is copied, and where to"),
    ("COPY --from=other /x /y", "--from is not carried out"),
    ("COPY ../x /app/", "outside the build context"),
    ("COPY a/../../x /app/", "outside the build context"),
    ("COPY /../x /app/", "outside the build context"),
    ("COPY x /usr/lib/python3/", "belongs to the system"),
    ("COPY x /app/../etc/passwd", "belongs to the system"),
    ("COPY <<EOF /app/x", "files of the build context"),
    ("ADD https://h/x /app/", "files of the build context"),
    ("ADD git@h:x.git /app/", "files of the build context"),
    ("ADD x.tar.gz /app/", "would unpack an archive"),
    ("WORKDIR", "expected a directory"),
    ("WORKDIR /etc", "belongs to the system"),
    ("ENV X", "expected ENV NAME=value"),
    ("ENV 1X=a", "expected ENV NAME=value"),
    ("ENV A=b C", "expected ENV NAME=value"),
    ("ARG X", "nobody else gives it one"),
    ("ARG =x", "expected ARG NAME=value"),
    ("FROM other", "only one stage"),
    ("ONBUILD RUN pip install six", "ONBUILD is not carried out"),
    ("INSTALL six", "INSTALL is not carried out"),
    ("RUN pip install six\x1b[31m", "printable characters"),
]


@pytest.mark.parametrize(("line", "reason"), REFUSED, ids=[line for line, _ in REFUSED])
def test_sw61_anything_else_is_refused_by_number_text_and_reason(line: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read("RUN pip install rich", line, "RUN pip install late")
    message = str(caught.value)
    assert message.startswith("step 3 (")
    assert reason in message
    assert message.endswith(CAN)
    assert "PROCESS carries out" in CAN
    assert "DOCKER and PODMAN" in CAN
    assert message.isprintable()


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read("RUN pip install https://user:secret@h/x.whl")
    reason = str(caught.value).partition("): ")[2]
    assert "user or password" in reason
    assert "secret" not in reason


@pytest.mark.parametrize("lines", [[], ["# only a comment"], ["RUN pip install six"], ["", " "]])
def test_a_recipe_begins_with_from(lines: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="FROM"):
        read_recipe(lines)


@pytest.mark.parametrize("line", ["FROM", "FROM --platform=x python", "FROM a b", "FROM a AS", "FROM ../x", "FROM $X"])
def test_from_names_one_image(line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"step 1 \(FROM"):
        read_recipe([line])


PIECES = st.sampled_from(
    [
        *("FROM", "RUN", "COPY", "ENV", "ARG", "WORKDIR", "ADD", "pip", "install", "-m", "python", "&&", "\\", "\n"),
        *("#", "$X", "${X}", "${", "'", '"', "=", "X=1", "--index-url", "-r", "../..", "/", "/app", "*", "[", " "),
        *('["pip"]', "swarmlearning-1.whl", "mkdir", "rm", "-rf", "https://h", "file:", "\t", "\u202e", "six", ";"),
        "\ud800",
    ]
)


@given(st.lists(st.lists(PIECES, max_size=8).map(" ".join), max_size=8))
def test_whatever_the_lines_a_recipe_or_one_clear_line_comes_of_them(lines: list[str]) -> None:
    check_outcome(["FROM python", *lines])


@given(st.lists(st.text(max_size=60), max_size=6))
def test_whatever_the_text_a_recipe_or_one_clear_line_comes_of_it(lines: list[str]) -> None:
    check_outcome(lines)


def check_outcome(lines: list[str]) -> None:
    try:
        recipe = read_recipe(lines)
    except ConfigurationError as error:
        message = str(error)
    else:
        check_steps(recipe)
        return
    assert message.isprintable()
    assert len(message) < 480


def check_steps(recipe: Recipe) -> None:
    assert all(note.isprintable() for note in recipe.notes)
    for step in recipe.steps:
        assert step.text.isprintable()
        paths: tuple[str, ...] = ()
        if isinstance(step, Install):
            # What pip sees as an option is on the list; what it sees as a path is absolute, in the image.
            assert not any(each.text.startswith("-") and each.wanted for each in step.arguments)
            paths = tuple(each.text for each in step.arguments if each.path)
        elif isinstance(step, Copy):
            assert not any(source.startswith(("/", "..")) for source in step.sources)
            paths = (step.target,)
        else:
            paths = step.paths
        assert all(path.startswith("/") and ".." not in path.split("/") for path in paths)
