//! Ports of pods, forwarded by crictl and by a client of our own.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use criquet_tests::spdy::SpdySession;
use criquet_tests::{BUSYBOX, NGINX, Node, PATIENCE_S, container, cri, eventually, pod};

use crate::streaming::TRANSPORTS;

/// What takes longer hangs; the test shall say so, not hang as well.
const PAGE: Duration = Duration::from_secs(PATIENCE_S);

/// A `crictl port-forward` that is killed with the test.
pub(crate) struct Forward {
    child: Child,
    port: u16,
}

impl Forward {
    /// Forwards a free port of the node to `port` of `pod`.
    pub(crate) fn start(node: &Node, transport: &str, pod: &str, port: u16) -> Forward {
        // Free once, and nobody else picks ports in this network namespace.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let local = free.local_addr().unwrap().port();
        drop(free);
        let child = node
            .crictl_command(&["port-forward", "-r", transport, pod, &format!("{local}:{port}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let forward = Forward {
            child: child.unwrap(),
            port: local,
        };
        eventually("crictl listens", 30, || forward.connect());
        forward
    }

    pub(crate) fn connect(&self) -> Option<TcpStream> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()
    }

    /// One page of a web server.
    fn page(&self) -> Option<String> {
        let mut connection = self.connect()?;
        connection.set_read_timeout(Some(PAGE)).ok()?;
        connection.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut page = String::new();
        connection.read_to_string(&mut page).ok()?;
        Some(page)
    }
}

/// Waits until something listens on all of `ports` in the network of `container`.
pub(crate) fn listening(node: &Node, container: &str, ports: &[u16]) {
    eventually("the servers listen", 30, || {
        let table = node
            .exec(container, &["cat", "/proc/net/tcp", "/proc/net/tcp6"])
            .stdout;
        // 0A is the state LISTEN.
        let listens = |port: &u16| {
            let local = format!(":{port:04X} ");
            table
                .lines()
                .any(|line| line.contains(&local) && line.contains(" 0A "))
        };
        ports.iter().all(listens).then_some(())
    });
}

/// A page of a web server that may still be starting. A client drops its whole session when a port is closed, hence a new
/// one for each try.
fn first_page(node: &Node, transport: &str, pod: &str, port: u16) -> String {
    eventually("a page", 90, || {
        Forward::start(node, transport, pod, port)
            .page()
            .filter(|page| !page.is_empty())
    })
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn on_the_node(mut config: cri::PodSandboxConfig) -> cri::PodSandboxConfig {
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().network = cri::NamespaceMode::Node.into();
    config.hostname = String::new();
    config
}

#[test]
fn a_web_server_is_reached_in_a_pod_and_on_the_node() {
    let node = Node::start();
    let in_pod = node.pod(pod("web"));
    node.launch(&in_pod, container("web", NGINX, &[]));
    let on_node = node.pod(on_the_node(pod("host")));
    let mut config = container("host", NGINX, &[]);
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().network = cri::NamespaceMode::Node.into();
    node.launch(&on_node, config);
    for pod in [&in_pod, &on_node] {
        for transport in TRANSPORTS {
            let page = first_page(&node, transport, &pod.id, 80);
            assert!(
                page.starts_with("HTTP/1.1 200") && page.contains("Welcome to nginx"),
                "{transport}: {page}"
            );
        }
    }
}

#[test]
fn connections_at_once_and_one_after_another_leave_nothing() {
    let node = Node::start();
    let pod = node.pod(pod("many"));
    node.launch(&pod, container("many", NGINX, &[]));
    let mut before = None;
    for transport in TRANSPORTS {
        first_page(&node, transport, &pod.id, 80);
        let forward = Forward::start(&node, transport, &pod.id, 80);
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        assert!(
                            forward.page().unwrap().contains("Welcome to nginx"),
                            "{transport}"
                        );
                    }
                });
            }
        });
        drop(forward);
        match &before {
            None => {
                std::thread::sleep(Duration::from_secs(1));
                before = Some(node.census());
            }
            Some(before) => node.assert_settles(before),
        }
    }
}

#[test]
fn a_port_where_nobody_listens_is_told_and_ends_nothing_else() {
    let node = Node::start();
    let pod = node.pod(pod("closed"));
    let id = node.launch(
        &pod,
        container("closed", BUSYBOX, &["nc", "-ll", "-p", "9000", "-e", "cat"]),
    );
    listening(&node, &id, &[9000]);
    let request = cri::PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: vec![],
    };
    let url = node.cri().port_forward(request).unwrap().url;
    let mut session = SpdySession::open(&url, "portforward.k8s.io").unwrap();
    let mut pair = |port: &str, id: &str| {
        let open = |session: &mut SpdySession, kind| {
            session
                .stream(&[("streamtype", kind), ("port", port), ("requestid", id)])
                .unwrap()
        };
        (open(&mut session, "error"), open(&mut session, "data"))
    };
    let (error, _) = pair("9999", "0");
    let (_, open) = pair("9000", "1");
    let (stream, said) = session.data().unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(
        stream == error && said.contains("9999") && said.contains("refused"),
        "{stream}: {said}"
    );
    session.send(open, b"still here", false).unwrap();
    assert_eq!(session.data().unwrap(), (open, b"still here".to_vec()));
    // Nonsense for a port is that stream's end alone.
    session
        .stream(&[("streamtype", "data"), ("port", "99999"), ("requestid", "2")])
        .unwrap();
    session.send(open, b"and here", false).unwrap();
    assert_eq!(session.data().unwrap(), (open, b"and here".to_vec()));
}

#[test]
fn the_pod_s_end_ends_its_forwards() {
    let node = Node::start();
    let pod = node.pod(pod("ends"));
    node.launch(
        &pod,
        container("ends", BUSYBOX, &["nc", "-ll", "-p", "9000", "-e", "cat"]),
    );
    // Anew for each try, as in `first_page`.
    let (_forward, mut connection) = eventually("an echo", 90, || {
        let forward = Forward::start(&node, "spdy", &pod.id, 9000);
        let mut connection = forward.connect()?;
        connection.set_read_timeout(Some(PAGE)).ok()?;
        connection.write_all(b"x").ok()?;
        let mut byte = [0];
        connection.read_exact(&mut byte).ok()?;
        Some((forward, connection))
    });
    node.remove_pod(&pod.id);
    let mut rest = Vec::new();
    // An end or a reset: nobody waits for a pod that is gone.
    match connection.read_to_end(&mut rest) {
        Ok(read) => assert_eq!(read, 0),
        Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "no end in {PAGE:?}"),
    }
}
