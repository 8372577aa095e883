//! The built-in bridge network, done in process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use support::{PATIENCE, Place, address, ask, ask_in_vain, ip, on_host, run};

#[test]
fn pods_reach_each_other_and_the_host() {
    on_host(|host| async move {
        let network = host.network();
        assert_eq!(network.ready().await.unwrap(), "criquet");
        let (one, two) = (Place::new("one"), Place::new("two"));
        let first = network.attach(&one.pod).await.unwrap();
        let second = network.attach(&two.pod).await.unwrap();
        assert_eq!(first.ips, [address("10.88.0.2")]);
        assert_eq!(second.ips, [address("10.88.0.3")]);
        assert_eq!(first.interface, "eth0");
        two.serve(80);
        assert_eq!(one.ask(second.ips[0], 80), Some(first.ips[0]));
        assert_eq!(
            ask(second.ips[0], 80),
            Some(address("10.88.0.1")),
            "from the host"
        );
        let listener = std::net::TcpListener::bind("10.88.0.1:7000").unwrap();
        std::thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            std::io::Write::write_all(&mut stream, peer.ip().to_string().as_bytes()).unwrap();
        });
        assert_eq!(
            one.ask(address("10.88.0.1"), 7000),
            Some(first.ips[0]),
            "the host sees the pod"
        );
        assert!(one.ask_in_vain(address("127.0.0.1"), 1));
        assert!(one.inside(|| ip("addr show lo")).contains("127.0.0.1"));
        network.check("one").await.unwrap();
        network.detach("one").await.unwrap();
        network.detach("one").await.unwrap();
        network.detach("never seen").await.unwrap();
        assert_eq!(host.leases("criquet"), ["10.88.0.3"]);
        assert!(
            host.records().iter().all(|name| name.starts_with("two.")),
            "{:?}",
            host.records()
        );
    });
}

#[test]
fn host_ports_are_reached_from_everywhere() {
    host_ports("1");
}

#[test]
fn host_ports_are_reached_from_everywhere_without_bridge_filtering() {
    host_ports("0");
}

fn host_ports(bridge_filtering: &'static str) {
    on_host(move |host| async move {
        // Only where the kernel has br_netfilter.
        std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", bridge_filtering).ok();
        let network = host.network();
        let server = Place::new("server").port(8080, 80, None);
        let client = Place::new("client");
        let got = network.attach(&server.pod).await.unwrap();
        network.attach(&client.pod).await.unwrap();
        server.serve(80);
        assert_eq!(
            ask(address("127.0.0.1"), 8080),
            Some(address("10.88.0.1")),
            "localhost"
        );
        assert!(
            ask(address("10.88.0.1"), 8080).is_some(),
            "the host's own address"
        );
        assert!(client.ask(address("10.88.0.1"), 8080).is_some(), "another pod");
        assert!(server.ask(address("10.88.0.1"), 8080).is_some(), "the pod itself");
        // Another host on another link.
        let outside = Place::new("outside");
        ip("link add up0 type veth peer name eth9");
        ip(&format!(
            "link set eth9 netns /proc/{}/fd/{}",
            std::process::id(),
            fd(&outside)
        ));
        ip("addr add 192.0.2.1/24 dev up0");
        ip("link set up0 up");
        outside.inside(|| {
            ip("addr add 192.0.2.2/24 dev eth9");
            ip("link set eth9 up");
            ip("link set lo up");
        });
        assert_eq!(
            outside.ask(address("192.0.2.1"), 8080),
            Some(address("192.0.2.2")),
            "another host"
        );
        assert!(
            outside.ask_in_vain(address("192.0.2.1"), 80),
            "a port that is not mapped"
        );
        outside.serve(90);
        assert_eq!(
            client.ask(address("192.0.2.2"), 90),
            Some(address("192.0.2.1")),
            "masqueraded"
        );
        // A neighbour must not reach 127.0.0.1 of the host (CVE-2020-8558).
        let listener = std::net::TcpListener::bind("127.0.0.1:7001").unwrap();
        client.inside(|| {
            ip("route add 127.0.0.0/8 via 10.88.0.1 dev eth0 table 7");
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            ip("route del local 127.0.0.0/8 dev lo table local");
            ip("route add 127.0.0.0/8 via 10.88.0.1 dev eth0");
        });
        assert!(client.ask_in_vain(address("127.0.0.1"), 7001));
        drop(listener);
        network.detach("server").await.unwrap();
        assert!(ask_in_vain(address("127.0.0.1"), 8080), "after detaching");
        assert!(!run("nft", "list table ip criquet").contains(&got.ips[0].to_string()));
    });
}

fn fd(place: &Place) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(&place.netns)
}

#[test]
fn a_host_port_can_be_of_one_address() {
    on_host(|host| async move {
        let network = host.network();
        ip("addr add 192.0.2.1/24 dev lo");
        let one = Place::new("one").port(8080, 80, Some("192.0.2.1"));
        network.attach(&one.pod).await.unwrap();
        one.serve(80);
        assert!(ask(address("192.0.2.1"), 8080).is_some());
        assert!(ask_in_vain(address("127.0.0.1"), 8080));
        assert!(ask_in_vain(address("10.88.0.1"), 8080));
        let two = Place::new("two").port(8080, 80, Some("192.0.2.1"));
        let error = network.attach(&two.pod).await.unwrap_err().to_string();
        assert!(error.contains("8080 is taken"), "{error}");
        assert_eq!(host.leases("criquet").len(), 1, "nothing stays of what failed");
        assert!(!two.inside(|| ip("link")).contains("eth0"));
        let three = Place::new("three").port(8081, 80, Some("127.0.0.1"));
        network.attach(&three.pod).await.unwrap();
        three.serve(80);
        assert!(ask(address("127.0.0.1"), 8081).is_some());
        assert!(ask_in_vain(address("192.0.2.1"), 8081));
        assert!(
            ask(address("192.0.2.1"), 8080).is_some(),
            "the first pod keeps its port"
        );
    });
}

#[test]
fn a_pod_that_is_not_one_leaves_nothing() {
    on_host(|host| async move {
        let network = host.network();
        let mut place = Place::new("one");
        for netns in ["/no/such/file", "/etc/hostname"] {
            place.pod.netns = netns.into();
            network.attach(&place.pod).await.unwrap_err();
            assert!(host.leases("criquet").is_empty() && host.records().is_empty());
        }
        place.pod.id = "../x".into();
        assert!(
            network
                .attach(&place.pod)
                .await
                .unwrap_err()
                .to_string()
                .contains("pod id")
        );
        assert!(!ip("link").contains("veth"));
    });
}

#[test]
fn a_namespace_that_lives_on_loses_its_link() {
    on_host(|host| async move {
        let network = host.network();
        let place = Place::new("one");
        network.attach(&place.pod).await.unwrap();
        network.detach("one").await.unwrap();
        // A second is left to the end of the namespace.
        let end = Instant::now() + PATIENCE;
        while place.inside(|| ip("link")).contains("eth0") {
            assert!(Instant::now() < end, "the link stays");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        network.attach(&place.pod).await.unwrap();
    });
}

#[test]
fn udp_finds_the_new_pod() {
    on_host(|host| async move {
        let network = host.network();
        let udp = |id: &str| {
            let mut place = Place::new(id).port(5353, 53, None);
            place.pod.ports[0].protocol = criquet_network::Protocol::Udp;
            place
        };
        let client = std::net::UdpSocket::bind("10.88.0.1:0")
            .or_else(|_| std::net::UdpSocket::bind("127.0.0.1:0"))
            .unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        for id in ["old", "new"] {
            let place = udp(id);
            network.attach(&place.pod).await.unwrap();
            let socket = place.inside(|| std::net::UdpSocket::bind("0.0.0.0:53")).unwrap();
            client.send_to(b"hello", "127.0.0.1:5353").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut buffer = [0; 16];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..length], from).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 5, "{id}");
            network.detach(id).await.unwrap();
            // A datagram to nobody, which leaves a flow that leads nowhere.
            client.send_to(b"lost", "127.0.0.1:5353").unwrap();
        }
    });
}

#[test]
fn a_flushed_ruleset_comes_back() {
    on_host(|host| async move {
        let network = host.network();
        let (one, two) = (
            Place::new("one").port(81, 80, None),
            Place::new("two").port(82, 80, None),
        );
        network.attach(&one.pod).await.unwrap();
        run("nft", "flush ruleset");
        network.attach(&two.pod).await.unwrap();
        two.serve(80);
        assert!(ask(address("127.0.0.1"), 82).is_some());
        network.detach("one").await.unwrap();
    });
}

#[test]
fn collect_frees_what_a_crash_left() {
    on_host(|host| async move {
        let pods = [
            Place::new("one").port(81, 80, None),
            Place::new("two").port(82, 80, None),
        ];
        for place in &pods {
            host.network().attach(&place.pod).await.unwrap();
        }
        std::fs::write(host.path("leases/criquet/10.88.0.77"), "ghost\r\neth0").unwrap();
        // Another process: it knows only what is recorded.
        let network = host.network();
        network.collect(&["two".into()]).await.unwrap();
        assert_eq!(host.leases("criquet"), ["10.88.0.3"]);
        let rules = run("nft", "list table ip criquet");
        assert!(
            rules.contains("10.88.0.3") && !rules.contains("10.88.0.2"),
            "{rules}"
        );
        network.wipe().await.unwrap();
        assert!(!host.path("cache").exists() && !host.path("leases/criquet").exists());
        assert!(!run("nft", "list tables").contains("criquet"));
        assert!(!ip("link").contains("criquet0"));
    });
}

#[test]
fn many_at_once() {
    on_host(|host| async move {
        let network = host.network();
        let places: Vec<Place> = (0..16)
            .map(|n| Place::new(&format!("p{n}")).port(9000 + n, 80, None))
            .collect();
        let mut tasks = Vec::new();
        for place in &places {
            let (network, pod) = (network.clone(), place.pod.clone());
            tasks.push(tokio::spawn(
                async move { network.attach(&pod).await.unwrap().ips[0] },
            ));
        }
        let mut ips = std::collections::HashSet::new();
        for task in tasks {
            assert!(ips.insert(task.await.unwrap()), "an address was given twice");
        }
        assert_eq!(host.leases("criquet").len(), 16);
    });
}

#[test]
fn how_long_it_takes() {
    on_host(|host| async move {
        let network = host.network();
        let warm = Place::new("warm");
        network.attach(&warm.pod).await.unwrap();
        let (mut attach, mut detach) = (Duration::ZERO, Duration::ZERO);
        const ROUNDS: u32 = 30;
        for round in 0..ROUNDS {
            let place = Place::new(&format!("r{round}")).port(8000, 80, None);
            let begun = Instant::now();
            network.attach(&place.pod).await.unwrap();
            attach += begun.elapsed();
            let begun = Instant::now();
            network.detach(&place.pod.id).await.unwrap();
            detach += begun.elapsed();
        }
        println!("attach {:?}, detach {:?}", attach / ROUNDS, detach / ROUNDS);
    });
}

#[test]
fn a_closed_forward_chain_is_opened_for_the_bridge() {
    on_host(|host| async move {
        run("iptables", "-P FORWARD DROP");
        run("iptables", "-A FORWARD -i other -j DROP");
        let network = host.network();
        let one = Place::new("one").port(8080, 80, None);
        network.attach(&one.pod).await.unwrap();
        one.serve(80);
        let outside = Place::new("outside");
        ip("link add up0 type veth peer name eth9");
        ip(&format!(
            "link set eth9 netns /proc/{}/fd/{}",
            std::process::id(),
            fd(&outside)
        ));
        ip("addr add 192.0.2.1/24 dev up0");
        ip("link set up0 up");
        outside.inside(|| {
            ip("addr add 192.0.2.2/24 dev eth9");
            ip("link set eth9 up");
            ip("route add 10.88.0.0/16 via 192.0.2.1");
        });
        outside.serve(90);
        assert!(one.ask(address("192.0.2.2"), 90).is_some());
        assert!(outside.ask(address("192.0.2.1"), 8080).is_some());
        assert!(
            outside.ask_in_vain(address("10.88.0.2"), 80),
            "what is not mapped stays closed"
        );
        let listed = run("iptables", "-S FORWARD");
        assert!(
            listed.contains("-A FORWARD -i criquet0 "),
            "iptables reads our rules: {listed}"
        );
        assert!(listed.contains("--ctstate RELATED,ESTABLISHED,DNAT "), "{listed}");
        network.collect(&["one".into()]).await.unwrap();
        assert_eq!(run("iptables", "-S FORWARD"), listed, "once is enough");
        network.wipe().await.unwrap();
        assert!(!run("iptables", "-S FORWARD").contains("criquet0"));
    });
}
