// What a container can do, told from inside it by a static program. Each command prints lines and exits with 0.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void told(const char *name, long result) {
    printf("%s %s\n", name, result < 0 ? strerrorname_np(errno) : "ok");
}

// Every open descriptor but the one that lists them, and the working directory.
static int fds(void) {
    char path[64], target[4096];
    for (int fd = 0; fd < 1024; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(path, target, sizeof target - 1);
        if (length >= 0)
            printf("%d %.*s\n", fd, (int)length, target);
    }
    printf("cwd %s\n", getcwd(target, sizeof target) ? target : strerrorname_np(errno));
    return 0;
}

// The answer of the kernel, or of the filter before it, to calls that a default profile has to refuse.
static int calls(void) {
    char page[256] = {0};
    told("socket-inet", socket(2, 1, 0));
    told("socket-unix", socket(1, 1, 0));
    told("socket-alg", socket(38, 5, 0));
    told("socket-vsock", socket(40, 1, 0));
    told("socket-smc", socket(43, 1, 0));
    told("unshare-user", unshare(CLONE_NEWUSER));
    told("unshare-mount", unshare(CLONE_NEWNS));
    told("clone-user", syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0));
    told("clone3", syscall(SYS_clone3, page, 64));
    told("setns", syscall(SYS_setns, -1, 0));
    told("mount", syscall(SYS_mount, "none", "/", "tmpfs", 0, 0));
    told("umount2", syscall(SYS_umount2, "/proc", 0));
    told("pivot_root", syscall(SYS_pivot_root, "/", "/"));
    told("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    told("fsconfig", syscall(SYS_fsconfig, -1, 0, 0, 0, 0));
    told("move_mount", syscall(SYS_move_mount, -1, "", -1, "", 0));
    told("open_tree", syscall(SYS_open_tree, -1, "", 0));
    told("mount_setattr", syscall(442, -1, "", 0, page, 32));
    told("keyctl", syscall(SYS_keyctl, 0, -3, 0, 0, 0));
    told("add_key", syscall(SYS_add_key, "user", "x", "y", 1, -3));
    told("bpf", syscall(SYS_bpf, 0, page, sizeof page));
    told("userfaultfd", syscall(SYS_userfaultfd, 0));
    told("perf_event_open", syscall(SYS_perf_event_open, page, 0, -1, -1, 0));
    told("io_uring_setup", syscall(SYS_io_uring_setup, 1, page));
    told("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
    told("init_module", syscall(SYS_init_module, page, 0, ""));
    told("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
    told("swapon", syscall(SYS_swapon, "/x", 0));
    told("settimeofday", syscall(SYS_settimeofday, page, 0));
    told("open_by_handle_at", syscall(SYS_open_by_handle_at, -1, page, 0));
    told("acct", syscall(SYS_acct, 0));
    told("quotactl", syscall(SYS_quotactl, 0, 0, 0, 0));
    told("syslog", syscall(SYS_syslog, 3, page, sizeof page));
    told("personality-addr", syscall(SYS_personality, 0x0040000));
    told("getpid", syscall(SYS_getpid));
#if defined(__x86_64__)
    told("iopl", syscall(SYS_iopl, 3));
    long result;
    // 32-bit entry: socketcall(SOCKET) would go around the rule on socket's first argument.
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(102), "b"(1), "c"(0) : "memory");
    errno = (int)-result;
    told("i386-socketcall", result < 0 ? -1 : 0);
#endif
    return 0;
}

// Opens devices whose nodes the container can make, but not use.
static int devices(void) {
    static const struct { const char *name; int kind, major, minor; } nodes[] = {
        {"kmsg", S_IFCHR, 1, 11}, {"mem", S_IFCHR, 1, 1}, {"port", S_IFCHR, 1, 4}, {"fuse", S_IFCHR, 10, 229},
        {"loop", S_IFBLK, 7, 0}, {"disk", S_IFBLK, 8, 0}, {"vd", S_IFBLK, 254, 0}, {"null", S_IFCHR, 1, 3},
    };
    for (unsigned i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        char path[64];
        snprintf(path, sizeof path, "/tmp/%s", nodes[i].name);
        unlink(path);
        if (mknod(path, nodes[i].kind | 0600, (dev_t)nodes[i].major << 8 | nodes[i].minor) < 0)
            told(nodes[i].name, -1);
        else
            told(nodes[i].name, open(path, O_RDONLY | O_NONBLOCK));
    }
    return 0;
}

// CVE-2019-5736, CVE-2016-9962: watches for processes that come into the container, and reaches for their program,
// descriptors, root and memory. "seen" is a name that was looked up, "GOT" is an escape. Says "enough" when it has seen some;
// ends when it is told to, by a file.
static int grab(void) {
    static const char *names[] = {"exe", "root", "cwd", "fd/3", "fd/4", "fd/5", "fd/6", "fd/7", "mem"};
    unsigned long newcomers = 0;
    struct stat own_root, found;
    stat("/", &own_root);
    while (access("/tmp/stop", F_OK) != 0) {
        DIR *proc = opendir("/proc");
        for (struct dirent *entry; (entry = readdir(proc));) {
            int pid = atoi(entry->d_name);
            if (pid <= 1 || pid == getpid())
                continue;
            if (++newcomers == 20)
                printf("enough\n");
            for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
                char path[64], again[64], target[512] = "";
                snprintf(path, sizeof path, "/proc/%d/%s", pid, names[i]);
                int fd = open(path, O_PATH);
                if (fd < 0)
                    continue;
                snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
                if (readlink(again, target, sizeof target - 1) < 0)
                    target[0] = 0;
                if (!strcmp(names[i], "exe")) {
                    // The image's own programs can be written to; opening them would only keep others from running.
                    int writable = strstr(target, "memfd:") ? open(again, O_WRONLY) : -1;
                    if (strstr(target, "memfd:"))
                        printf("seen %s\n", target);
                    if (writable >= 0 && (pwrite(writable, "#", 1, 0) == 1 || ftruncate(writable, 0) == 0))
                        printf("GOT %s for writing\n", target);
                    if (writable >= 0)
                        close(writable);
                } else if (strcmp(names[i], "mem") && fstat(fd, &found) == 0 && S_ISDIR(found.st_mode) &&
                           (found.st_dev != own_root.st_dev || strstr(target, "(unreachable)"))) {
                    printf("GOT %s -> %s\n", names[i], target);
                } else if (!strcmp(names[i], "mem") && strstr(target, "criquet")) {
                    printf("GOT %s\n", target);
                }
                close(fd);
            }
        }
        closedir(proc);
    }
    return 0;
}

int main(int count, char **arguments) {
    const char *command = count > 1 ? arguments[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(command, "fds"))
        return fds();
    if (!strcmp(command, "calls"))
        return calls();
    if (!strcmp(command, "devices"))
        return devices();
    if (!strcmp(command, "grab"))
        return grab();
    if (!strcmp(command, "sti")) {
        char c = 'x';
        told("tiocsti", ioctl(0, TIOCSTI, &c));
        return 0;
    }
    return 2;
}
