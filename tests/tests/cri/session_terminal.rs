//! exec and attach as a person uses them: with a terminal.

use criquet_tests::{BUSYBOX, Node, Terminal, container, cri, eventually, pod};

use crate::streaming::TRANSPORTS;

#[test]
fn exec_with_a_terminal_echoes_takes_its_size_and_ends() {
    let node = Node::start();
    let pod = node.pod(pod("tty"));
    let id = node.launch(&pod, container("tty", BUSYBOX, &["sleep", "1000"]));
    let mut before = None;
    for transport in TRANSPORTS {
        let command = node.crictl_command(&["exec", "-r", transport, "-it", &id, "sh"]);
        let mut terminal = Terminal::start(&command, 91, 33);
        // The size travels beside the input: it may come later. The typed text holds no answer.
        let wait_for = |columns: u16, rows: u16| {
            format!(
                "until [ \"$(stty size)\" = '{rows} {columns}' ]; do sleep 0.1; done; echo is-$((1))-{rows}\n"
            )
        };
        terminal.type_in(&wait_for(91, 33));
        terminal.expect("is-1-33");
        terminal.resize(132, 50);
        terminal.type_in(&wait_for(132, 50));
        terminal.expect("is-1-50");
        terminal.type_in("tty && test -t 0 && test -t 1 && test -t 2 && echo term$((2))nal\n");
        terminal.expect("/dev/pts/");
        terminal.expect("term2nal");
        // Ctrl-C reaches the foreground process, not the client and not the shell.
        terminal.type_in("sleep 987; echo int$((3))rrupted\n");
        eventually("the command runs", 20, || {
            (node.exec(&id, &["pgrep", "-f", "^sleep 987"]).code == 0).then_some(())
        });
        terminal.type_in("\u{3}");
        terminal.type_in("echo still$((4))here\n");
        terminal.expect("still4here");
        terminal.type_in("exit 7\n");
        terminal.expect("exit code 7");
        assert_ne!(terminal.wait(), 0, "{transport}");
        // The first session may have started threads and caches that stay.
        match &before {
            None => before = Some(node.census()),
            Some(before) => node.assert_settles(before),
        }
    }
}

#[test]
fn end_of_file_on_a_terminal_ends_the_shell() {
    let node = Node::start();
    let pod = node.pod(pod("eof"));
    let id = node.launch(&pod, container("eof", BUSYBOX, &["sleep", "1000"]));
    let command = node.crictl_command(&["exec", "-it", &id, "sh"]);
    let mut terminal = Terminal::start(&command, 80, 24);
    terminal.type_in("echo re$((1))dy\n");
    terminal.expect("re1dy");
    // The prompt: from then on the shell reads the key itself, and the terminal makes nothing else of it meanwhile.
    terminal.expect("# ");
    terminal.type_in("\u{4}");
    assert_eq!(terminal.wait(), 0, "{}", terminal.shown());
}

#[test]
fn a_terminal_is_attached_to_detached_from_and_attached_to_again() {
    let node = Node::start();
    let pod = node.pod(pod("attach"));
    let mut config = container(
        "attach",
        BUSYBOX,
        &[
            "sh",
            "-c",
            "while read -r x; do echo \"got:$x:$(stty size)\"; done; echo no more",
        ],
    );
    (config.tty, config.stdin) = (true, true);
    let id = node.launch(&pod, config);
    let mut before = None;
    for transport in TRANSPORTS {
        let command = node.crictl_command(&["attach", "-r", transport, "-it", &id]);
        let mut terminal = Terminal::start(&command, 77, 22);
        terminal.type_in(&format!("{transport}\n"));
        terminal.expect(&format!("got:{transport}:"));
        eventually("the container's terminal has the size of ours", 30, || {
            terminal.type_in("size\n");
            terminal.expect("got:size:");
            std::thread::sleep(std::time::Duration::from_millis(100));
            terminal.shown().starts_with("22 77").then_some(())
        });
        // crictl itself stays after its detach keys and types no more (client-go takes them for a broken stdin).
        terminal.type_in("\u{10}\u{11}");
        terminal.expect("escape sequence");
        drop(terminal);
        assert_eq!(
            node.status(&id).state(),
            cri::ContainerState::ContainerRunning,
            "{transport}"
        );
        match &before {
            None => before = Some(node.census()),
            Some(before) => node.assert_settles(before),
        }
    }
    // Both have read the whole log's text: it has what was typed and what was said.
    let log = node.messages(&pod, "attach.log");
    assert!(
        log.contains("got:spdy:") && log.contains("got:websocket:"),
        "{log}"
    );
}

#[test]
fn the_end_of_the_container_ends_the_attachment() {
    let node = Node::start();
    let pod = node.pod(pod("end"));
    let mut config = container("end", BUSYBOX, &["sh", "-c", "read -r x; echo bye $x; exit 3"]);
    (config.tty, config.stdin) = (true, true);
    let id = node.launch(&pod, config);
    let command = node.crictl_command(&["attach", "-it", &id]);
    let mut terminal = Terminal::start(&command, 80, 24);
    terminal.type_in("bird\n");
    terminal.expect("bye bird");
    assert_eq!(terminal.wait(), 0, "{}", terminal.shown());
    assert_eq!(node.wait_exit(&id, 20).exit_code, 3);
}
