//! Sessions that are refused, and how that is said.

use criquet_tests::spdy::{SpdySession, request, upgrade};
use criquet_tests::{BUSYBOX, Node, container, cri, pod};
use tonic::Code;

const PROTOCOL: &str = "v4.channel.k8s.io";

fn exec(id: &str) -> cri::ExecRequest {
    cri::ExecRequest {
        container_id: id.into(),
        cmd: vec!["true".into()],
        stdout: true,
        ..cri::ExecRequest::default()
    }
}

fn attach(id: &str) -> cri::AttachRequest {
    cri::AttachRequest {
        container_id: id.into(),
        stdout: true,
        ..cri::AttachRequest::default()
    }
}

#[test]
fn requests_that_make_no_sense_are_refused_before_there_is_a_url() {
    let node = Node::start();
    let pod = node.pod(pod("refuse"));
    let id = node.launch(&pod, container("refuse", BUSYBOX, &["sleep", "1000"]));
    let cri = node.cri();
    let table = [
        (
            cri::ExecRequest {
                cmd: vec![],
                ..exec(&id)
            },
            "cmd",
        ),
        (
            cri::ExecRequest {
                tty: true,
                stderr: true,
                ..exec(&id)
            },
            "stderr",
        ),
        (
            cri::ExecRequest {
                stdout: false,
                ..exec(&id)
            },
            "stdout",
        ),
    ];
    for (request, part) in table {
        let error = cri.exec(request.clone()).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{request:?}: {error:?}");
        assert!(error.message().contains(part), "{request:?}: {error:?}");
    }
    let error = cri
        .attach(cri::AttachRequest {
            tty: true,
            stderr: true,
            ..attach(&id)
        })
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    let error = cri
        .attach(cri::AttachRequest {
            stdout: false,
            ..attach(&id)
        })
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    assert_eq!(cri.exec(exec("")).unwrap_err().code(), Code::NotFound);
    assert_eq!(cri.exec(exec("none")).unwrap_err().code(), Code::NotFound);
    assert_eq!(cri.attach(attach("none")).unwrap_err().code(), Code::NotFound);
    for port in [0, -1, 65536] {
        let request = cri::PortForwardRequest {
            pod_sandbox_id: pod.id.clone(),
            port: vec![port],
        };
        let error = cri.port_forward(request).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "port {port}: {error:?}");
    }
    let request = cri::PortForwardRequest {
        pod_sandbox_id: "none".into(),
        port: vec![],
    };
    assert_eq!(cri.port_forward(request).unwrap_err().code(), Code::NotFound);
}

#[test]
fn what_does_not_run_has_no_sessions() {
    let node = Node::start();
    let pod = node.pod(pod("stopped"));
    let id = node.launch(&pod, container("stopped", BUSYBOX, &["sleep", "1000"]));
    let created = node
        .try_create(&pod, container("created", BUSYBOX, &["true"]))
        .unwrap();
    // Asked for while it ran, used when it runs no more: said over the session.
    let late = node.cri().exec(exec(&id)).unwrap().url;
    node.stop_container(&id, 0);
    for id in [&id, &created] {
        for error in [
            node.cri().exec(exec(id)).unwrap_err(),
            node.cri().attach(attach(id)).unwrap_err(),
        ] {
            assert_eq!(error.code(), Code::FailedPrecondition, "{error:?}");
            assert!(error.message().contains("is "), "{error:?}");
        }
    }
    let mut session = SpdySession::open(&late, PROTOCOL).unwrap();
    let error = session.stream(&[("streamtype", "error")]).unwrap();
    session.stream(&[("streamtype", "stdout")]).unwrap();
    let (stream, said) = session.data().unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(
        stream == error && said.contains("Failure") && said.contains("is exited"),
        "{stream}: {said}"
    );
    let stop = cri::StopPodSandboxRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    node.cri().stop_pod_sandbox(stop).unwrap();
    let request = cri::PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: vec![],
    };
    let error = node.cri().port_forward(request).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error:?}");
}

#[test]
fn a_url_is_good_once_and_only_for_what_it_was_given() {
    let node = Node::start();
    let pod = node.pod(pod("token"));
    let id = node.launch(&pod, container("token", BUSYBOX, &["sleep", "1000"]));
    let status = |url: &str, headers: &str| request(url, headers).unwrap().0;
    let url = node.cri().exec(exec(&id)).unwrap().url;
    let (base, token) = url.split_once("/exec/").unwrap();
    assert!(
        token.len() >= 22 && base.starts_with("http://127.0.0.1:"),
        "{url}"
    );

    let wrong = format!("{base}/exec/{}", "A".repeat(token.len()));
    for wrong in [
        wrong.as_str(),
        &format!("{base}/exec/"),
        &format!("{base}/"),
        &format!("{base}/../{token}"),
    ] {
        let answer = status(wrong, &upgrade(PROTOCOL));
        assert!(answer.starts_with("HTTP/1.1 404"), "{wrong}: {answer}");
    }
    let mut session = SpdySession::open(&url, PROTOCOL).unwrap();
    let answer = status(&url, &upgrade(PROTOCOL));
    assert!(answer.starts_with("HTTP/1.1 404"), "a used token: {answer}");
    let error = session.stream(&[("streamtype", "error")]).unwrap();
    session.stream(&[("streamtype", "stdout")]).unwrap();
    let (stream, said) = session.data().unwrap();
    assert_eq!(
        (stream, said.as_slice()),
        (error, br#"{"metadata":{},"status":"Success"}"#.as_slice())
    );

    let other = node
        .cri()
        .attach(attach(&id))
        .unwrap()
        .url
        .replace("/attach/", "/exec/");
    let answer = status(&other, &upgrade(PROTOCOL));
    assert!(
        answer.starts_with("HTTP/1.1 404"),
        "the token of an attach: {answer}"
    );
    let url = node.cri().exec(exec(&id)).unwrap().url;
    let answer = status(&url, "");
    assert!(answer.starts_with("HTTP/1.1 400"), "no upgrade: {answer}");
}
