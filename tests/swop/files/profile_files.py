"""Profiles of the shapes that the product's examples have: comments, blanks before colons, quotes, placeholders."""

TWO = """\
---
##################################
# Two peers of a hospital
##################################
groupname  : heart
taskrunner : defaulttaskbb.taskdb.sml.hpe
policyuri  : ~
resourcemgr :
    mgrtype    : DOCKER
    accessinfo :
        accesstype : FROMENV
network    : ward-net
apls :
    locator :
        host : <LICENCES>
        port : ~
apisrv :
    locator :
        host : sn.hospital-a.example
        port : ~
envvars :
    - SL_LOG_LEVEL : INFO
    - http_proxy : ~
nodes :
    - slnodedef :
        idx : 0
        identity :
            - attribute :
                aType : KEY
                mType : BIND
                src : "<CURRENT-PATH>/cert/sl-1-key.pem"
                tgt : "/swarm-cert/sl-key.pem"
                subPath : null
            - attribute :
                aType : CERT
                mType : BIND
                src : "<CURRENT-PATH>/cert/sl-1-cert.pem"
                tgt : "/swarm-cert/sl-cert.pem"
                subPath : null
            - attribute :
                aType : CAPATH
                mType : BIND
                src : "<CURRENT-PATH>/cert/ca/capath"
                tgt : "/swarm-cert/capath"
                subPath : null
        slhostname : sl1
        slhostip   : sl1
        slport : ~
        usrhostname : user1
        privatedata :
            src: "<CURRENT-PATH>/user1/data-and-scratch"
            mType : BIND
        slenvvars : null
        usrenvvars : null
    - slnodedef :
        idx : 1
        identity :
            - attribute :
                aType : KEY
                mType : VOLUME
                src : certs
                tgt : /swarm-cert/key.pem
                subPath : sl-2/key.pem
            - attribute :
                aType : CERT
                mType : VOLUME
                src : certs
                tgt : /swarm-cert/cert.pem
                subpath : sl-2/cert.pem
            - attribute :
                aType : CACERT
                mType : BIND
                src : /etc/swarm/ca.pem
                tgt : /swarm-cert/ca.pem
        slhostname : sl2
        slhostip   : 192.0.2.7
        slport     : 16000
        slfsservice: ~
        slenvvars  : [SL_LOG_LEVEL : DEBUG, swarm_node_type : sl]
        sllabels   : {tier : learning, note : ~}
        slnetworkopts :
            - ip : 172.20.0.7
        usrhostname : user2
        usrenvvars :
            - HIP_VISIBLE_DEVICES : 0
            - SCRATCH_DIR : "user2"
        usrlabels : [reads-data, gpu]
        usrnetworkopts : {ip: 172.20.0.8}
        privatedata : ~
        usrcontaineropts :
            - device : ["/dev/kfd", "/dev/dri"]
            - privileged : True
            - gpus : "device=6,7"
"""

LEAST = """\
groupname: demo
nodes:
- slnodedef:
    idx: 0
    identity:
    - attribute: {aType: KEY, mType: BIND, src: k.pem, tgt: /k.pem}
    - attribute: {aType: CERT, mType: BIND, src: c.pem, tgt: /c.pem}
    - attribute: {aType: CACERT, mType: BIND, src: ca.pem, tgt: /ca.pem}
"""

ALL = {"two": TWO, "least": LEAST}
