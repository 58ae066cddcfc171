"""Task files of the shapes that the product's examples have: comments, flow lists, blank steps, `~`, numbers."""

RUN = """\
##################################
# A swarm of two programs
##################################
Name: swarm_heart_task
TaskType: RUN_SWARM
Author: Heart-Team
Prereq: user_env_heart_build_task
Outcome: swarm_heart_task
Body:
    Command: model/heart.py --verbose
    Entrypoint: python3
    WorkingDir: /tmp/work
    Envvars: ["DATA_DIR": data/rows, "MODEL_DIR": model, "MAX_EPOCHS": 32, "MIN_PEERS": 2, 'WAIT':500, "LOOP" : False]
    PrivateContent: /tmp/work/data
    SharedContent:
    -   Src: <CURRENT-PATH>/workspace/heart/model
        Tgt: /tmp/work/model
        MType: BIND
"""

BUILD = """\
Name: user_env_heart_build_task
TaskType: MAKE_USER_CONTAINER
Author: Heart-Team
Prereq: ROOTTASK
Outcome: user-env-heart-1.0
Body:
    BuildContext: sl-cli-lib    # a volume
                                # with a wheel
    BuildType: INLINE
    BuildSteps:
    - FROM python:3.12-slim
    - ' '
    - RUN pip3 install --upgrade pip && pip3 install \\
    - '   numpy pandas scikit-learn==1.5.0 '
    - ' '
    - ENV PATH="/opt/tools/bin:${PATH}" \\
    - '    NOTE=''quoted'' \\'
    #- COPY not-this /tmp
    - RUN mkdir -p /tmp/pkg

    - COPY client-py3-none-any.whl /tmp/pkg/client-py3-none-any.whl
    - RUN pip3 install /tmp/pkg/client-py3-none-any.whl

"""

PULL = """\
Name: pull-heart
TaskType : PULL_IMAGE
Author   : Heart-Team
Prereq   : ROOTTASK
Outcome  : "registry.example/heart/tools:2.7.0"
Body     :
    Tag        : "2.7.0"
    RepoName   : "tools"
    OrgAndReg  : "registry.example/heart/"
    Auth       : ~
"""

CONTENT = """\
Name: download-heart
TaskType : MAKE_SWARM_USER_CONTENT
Author   : Heart-Team
Prereq   : ROOTTASK
Outcome  : heart-volume
Body     :
    ContentType : SWARMCONTENT
    OpsList :
        - Operation : DOWNLOAD
#          Target    : "https://example.org/elsewhere/heart.py"
          Target    : "http://192.0.2.2:9292/model/heart.py"
          Options   :
            - Out   : "model/heart.py"
        - Operation : EXTRACT
          Target    : "data/rows.tar"
          Options   : []
"""

ALL = {"run": RUN, "build": BUILD, "pull": PULL, "content": CONTENT}
