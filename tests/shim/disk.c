/* A shim between a program and its disk (LD_PRELOAD): writes down what happens to the files below
 * $MILLRACE_DISK_ROOT, in order and with data, so that a test can make the disk of a power cut out of
 * it, and lets the k-th operation fail, or the reading of some file.
 *
 * Every operation is done and written down under one lock, so the order in $MILLRACE_DISK_LOG is the
 * order on the disk. What the shim cannot follow (shared writable mappings, copies inside the kernel,
 * renames between directories) ends the program: a hole in the record would prove nothing.
 *
 * A write to $MILLRACE_DISK_ROOT.marks never fails and is a mark in the record. Some are orders:
 *   "fail K ERRNO once|on" the K-th operation from now on fails, it alone or all from there on
 *   "fail off"             no more
 *   "hit?"                 fails with EAGAIN unless an operation has failed since the last "fail K"
 *   "read HOW END ERRNO COUNT FROM LEN" the next COUNT (or, if negative, all) reads fail of files whose
 *                          names end in END: HOW "open" their opening, "read" what touches LEN bytes from
 *                          FROM on (LEN 0: anything); "read off" no more
 * Where ERRNO is ENOSPC only what takes room counts, and with "on" the K-th write is cut short first.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ROOT, CREATE, MKDIR, WRITE, SIZE, RENAME, REMOVE, SYNC, MARK, LINK };

struct record {
    uint32_t kind, len1, len2, unused;
    uint64_t a, b;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_len;
static int log_fd = -1;
static long fail_at, fail_seen;
static int fail_errno, fail_on, fail_hit;

static char read_how[8], read_end[64];
static long read_left, read_from, read_len;
static int read_errno;

static void give_up(const char *what) {
    fprintf(stderr, "disk shim: %s\n", what);
    abort();
}

static void record(uint32_t kind, uint64_t a, uint64_t b, const void *p1, size_t len1, const char *p2) {
    if (log_fd < 0)
        return;
    struct record head = {kind, (uint32_t)len1, p2 ? (uint32_t)strlen(p2) : 0, 0, a, b};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)p1, len1}, {(void *)p2, head.len2}};
    ssize_t all = (ssize_t)(sizeof head + len1 + head.len2);
    if (syscall(SYS_writev, log_fd, parts, 3) != all)
        give_up("the record cannot be written");
}

__attribute__((constructor)) static void begin(void) {
    const char *dir = getenv("MILLRACE_DISK_ROOT"), *log = getenv("MILLRACE_DISK_LOG");
    struct stat st;
    if (!dir || !realpath(dir, root))
        return;
    root_len = strlen(root);
    if (log) {
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (log_fd < 0 || stat(root, &st) != 0)
            give_up("cannot begin");
        record(ROOT, st.st_ino, 0, NULL, 0, NULL);
    }
}

/* Whether a path is below the root; 2 for the file of marks. */
static int inside(const char *path) {
    if (!root_len || strncmp(path, root, root_len) != 0)
        return 0;
    if (strcmp(path + root_len, ".marks") == 0)
        return 2;
    return path[root_len] == '/' || path[root_len] == 0;
}

static int path_of(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    if (len <= 0)
        return 0;
    out[len] = 0;
    char *gone = strstr(out, " (deleted)");
    if (gone && gone[10] == 0)
        *gone = 0;
    return inside(out);
}

static int tracked(int fd) {
    struct stat st;
    char path[PATH_MAX];
    if (!root_len || syscall(SYS_fstat, fd, &st) != 0 || !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
        return 0;
    return path_of(fd, path);
}

/* The whole path of an entry, and the last part of it. 0: not ours. */
static int entry(int dirfd, const char *path, char *out, char **name) {
    if (!root_len)
        return 0;
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else {
        char dir[PATH_MAX];
        if (dirfd == AT_FDCWD || !path_of(dirfd, dir))
            return 0;
        if (snprintf(out, PATH_MAX, "%s/%s", dir, path) >= PATH_MAX)
            give_up("a long path");
    }
    size_t len = strlen(out);
    while (len > 1 && out[len - 1] == '/')
        out[--len] = 0;
    *name = strrchr(out, '/') + 1;
    return inside(out);
}

static uint64_t parent_of(char *path, char *name) {
    struct stat st;
    char kept = name[-1];
    name[-1] = 0;
    int failed = stat(path, &st);
    name[-1] = kept;
    return failed ? 0 : st.st_ino;
}

static uint64_t inode_of(int fd) {
    struct stat st;
    return fstat(fd, &st) ? 0 : st.st_ino;
}

/* Whether this operation is to fail. */
static int denied(int takes_room) {
    if (!fail_at || (fail_errno == ENOSPC && !takes_room))
        return 0;
    fail_seen++;
    if (fail_seen < fail_at || (fail_seen > fail_at && !fail_on))
        return 0;
    fail_hit = 1;
    errno = fail_errno;
    return 1;
}

/* Whether this opening or reading is to fail. */
static int unreadable(const char *how, const char *path, off_t at, size_t len) {
    size_t all = strlen(path), end = strlen(read_end);
    int denied = 0;
    pthread_mutex_lock(&lock);
    if (read_left && strcmp(how, read_how) == 0 && all >= end && strcmp(path + all - end, read_end) == 0 &&
        (!read_len || (at < read_from + read_len && at + (off_t)len > read_from))) {
        read_left -= read_left > 0;
        fail_hit = denied = 1;
    }
    pthread_mutex_unlock(&lock);
    if (denied)
        errno = read_errno;
    return denied;
}

static ssize_t do_read(int fd, void *to, size_t len, off_t at, int positioned) {
    char path[PATH_MAX];
    if (read_left && path_of(fd, path) == 1 &&
        unreadable("read", path, positioned ? at : lseek(fd, 0, SEEK_CUR), len))
        return -1;
    return positioned ? syscall(SYS_pread64, fd, to, len, at) : syscall(SYS_read, fd, to, len);
}

ssize_t read(int fd, void *to, size_t len) { return do_read(fd, to, len, 0, 0); }
ssize_t pread(int fd, void *to, size_t len, off_t at) { return do_read(fd, to, len, at, 1); }
ssize_t pread64(int fd, void *to, size_t len, off64_t at) { return do_read(fd, to, len, at, 1); }

static ssize_t mark(const void *data, size_t len) {
    char text[160] = {0}, how[8] = {0};
    long at;
    int number;
    memcpy(text, data, len < sizeof text - 1 ? len : sizeof text - 1);
    if (strncmp(text, "hit?", 4) == 0) {
        errno = EAGAIN;
        return fail_hit ? (ssize_t)len : -1;
    }
    if (strncmp(text, "read off", 8) == 0)
        read_left = 0;
    else if (sscanf(text, "read %7s %63s %d %ld %ld %ld", read_how, read_end, &read_errno, &read_left, &read_from,
                    &read_len) == 6) {
        fail_hit = 0;
    } else if (strncmp(text, "fail off", 8) == 0)
        fail_at = 0;
    else if (sscanf(text, "fail %ld %d %7s", &at, &number, how) == 3) {
        fail_at = at, fail_errno = number, fail_on = strcmp(how, "on") == 0, fail_seen = 0, fail_hit = 0;
    }
    record(MARK, 0, 0, data, len, NULL);
    return (ssize_t)len;
}

static ssize_t do_write(int fd, const void *data, size_t len, off_t offset, int positioned) {
    int of = tracked(fd);
    if (!of)
        return positioned ? syscall(SYS_pwrite64, fd, data, len, offset) : syscall(SYS_write, fd, data, len);
    ssize_t done;
    pthread_mutex_lock(&lock);
    if (of == 2) {
        done = mark(data, len);
    } else if (denied(1) && !(fail_errno == ENOSPC && fail_on && fail_seen == fail_at && len > 1)) {
        done = -1;
    } else {
        if (fail_at && fail_errno == ENOSPC && fail_on && fail_seen == fail_at)
            len /= 2; /* a disk that becomes full takes a part, then nothing */
        if (!positioned) {
            struct stat st;
            int append = (int)syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND;
            offset = append && !fstat(fd, &st) ? st.st_size : lseek(fd, 0, SEEK_CUR);
            done = syscall(SYS_write, fd, data, len);
        } else {
            done = syscall(SYS_pwrite64, fd, data, len, offset);
        }
        if (done > 0)
            record(WRITE, inode_of(fd), (uint64_t)offset, data, (size_t)done, NULL);
    }
    int saved = errno;
    pthread_mutex_unlock(&lock);
    errno = saved;
    return done;
}

ssize_t write(int fd, const void *data, size_t len) { return do_write(fd, data, len, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return do_write(fd, data, len, at, 1); }
ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) { return do_write(fd, data, len, at, 1); }

static ssize_t do_writev(int fd, const struct iovec *parts, int count, off_t offset, int positioned) {
    if (!tracked(fd))
        return positioned ? syscall(SYS_pwritev, fd, parts, count, offset, 0) : syscall(SYS_writev, fd, parts, count);
    ssize_t sum = 0;
    for (int i = 0; i < count; i++) {
        ssize_t done = do_write(fd, parts[i].iov_base, parts[i].iov_len, offset + sum, positioned);
        if (done < 0)
            return sum ? sum : done;
        sum += done;
        if ((size_t)done < parts[i].iov_len)
            break;
    }
    return sum;
}

ssize_t writev(int fd, const struct iovec *parts, int count) { return do_writev(fd, parts, count, 0, 0); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return do_writev(fd, parts, count, at, 1); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) { return do_writev(fd, parts, count, at, 1); }

static int do_open(int dirfd, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX], *name;
    int of = entry(dirfd, path, whole, &name);
    int changes = flags & (O_CREAT | O_TRUNC) || (flags & O_ACCMODE) != O_RDONLY;
    if (of == 1 && !changes && read_left && unreadable("open", whole, 0, 0))
        return -1;
    if (of != 1 || !changes || (flags & O_TMPFILE) == O_TMPFILE)
        return (int)syscall(SYS_openat, dirfd, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat st;
    int there = syscall(SYS_newfstatat, dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
    int creates = !there && flags & O_CREAT;
    int cuts = there && flags & O_TRUNC && st.st_size > 0;
    int counts = creates || cuts || fail_errno == EROFS;
    int fd = -1;
    if (!(counts && denied(creates))) {
        fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
        if (fd >= 0 && creates)
            record(CREATE, parent_of(whole, name), inode_of(fd), name, strlen(name), NULL);
        else if (fd >= 0 && cuts)
            record(SIZE, inode_of(fd), 0, NULL, 0, NULL);
    }
    int saved = errno;
    pthread_mutex_unlock(&lock);
    errno = saved;
    return fd;
}

#define MODE(flags, mode) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list rest; va_start(rest, flags); mode = (mode_t)va_arg(rest, int); va_end(rest); }

int open(const char *path, int flags, ...) { MODE(flags, mode) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags, mode) return do_open(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags, mode) return do_open(dir, path, flags, mode); }
int creat(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* What follows are operations with one path or one file: `real` does it, `note` writes it down. */
#define GUARDED(ours, takes_room, real, note) \
    if (!(ours)) return (int)(real); \
    pthread_mutex_lock(&lock); \
    int done = -1; \
    if (!denied(takes_room)) { done = (int)(real); if (done == 0) { note; } } \
    int saved = errno; pthread_mutex_unlock(&lock); errno = saved; \
    return done;

int mkdirat(int dir, const char *path, mode_t mode) {
    char whole[PATH_MAX], *name;
    struct stat st;
    GUARDED(entry(dir, path, whole, &name), 1, syscall(SYS_mkdirat, dir, path, mode),
            stat(whole, &st); record(MKDIR, parent_of(whole, name), st.st_ino, name, strlen(name), NULL))
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int unlinkat(int dir, const char *path, int flags) {
    char whole[PATH_MAX], *name;
    GUARDED(entry(dir, path, whole, &name), 0, syscall(SYS_unlinkat, dir, path, flags),
            record(REMOVE, parent_of(whole, name), 0, name, strlen(name), NULL))
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    char old[PATH_MAX], new[PATH_MAX], *old_name, *new_name;
    int ours = entry(from_dir, from, old, &old_name) + 3 * entry(to_dir, to, new, &new_name);
    if (ours && (ours != 4 || parent_of(old, old_name) != parent_of(new, new_name)))
        give_up("a rename between directories");
    GUARDED(ours, 1, syscall(SYS_renameat2, from_dir, from, to_dir, to, flags),
            record(RENAME, parent_of(new, new_name), 0, old_name, strlen(old_name), new_name))
}
int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    return renameat2(from_dir, from, to_dir, to, 0);
}
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    char whole[PATH_MAX], *name;
    struct stat st;
    GUARDED(entry(to_dir, to, whole, &name), 1, syscall(SYS_linkat, from_dir, from, to_dir, to, flags),
            stat(whole, &st); record(LINK, parent_of(whole, name), st.st_ino, name, strlen(name), NULL))
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int ftruncate(int fd, off_t len) {
    GUARDED(tracked(fd), 1, syscall(SYS_ftruncate, fd, len), record(SIZE, inode_of(fd), (uint64_t)len, NULL, 0, NULL))
}
int ftruncate64(int fd, off64_t len) { return ftruncate(fd, len); }

int fallocate(int fd, int mode, off_t at, off_t len) {
    struct stat st;
    if (tracked(fd) && mode != 0)
        give_up("fallocate with a mode");
    GUARDED(tracked(fd), 1, syscall(SYS_fallocate, fd, mode, at, len),
            fstat(fd, &st); record(SIZE, st.st_ino, (uint64_t)st.st_size, NULL, 0, NULL))
}
int fallocate64(int fd, int mode, off64_t at, off64_t len) { return fallocate(fd, mode, at, len); }
int posix_fallocate(int fd, off_t at, off_t len) { return fallocate(fd, 0, at, len) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t len) { return posix_fallocate(fd, at, len); }

int fsync(int fd) {
    GUARDED(tracked(fd), 1, syscall(SYS_fsync, fd), record(SYNC, inode_of(fd), 0, NULL, 0, NULL))
}
int fdatasync(int fd) {
    GUARDED(tracked(fd), 1, syscall(SYS_fdatasync, fd), record(SYNC, inode_of(fd), 0, NULL, 0, NULL))
}

/* Neither reaches the disk for certain: done, and not written down. */
int sync_file_range(int fd, off64_t at, off64_t len, unsigned flags) {
    return (int)syscall(SYS_sync_file_range, fd, at, len, flags);
}

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t len, unsigned flags) {
    if (tracked(out))
        give_up("copy_file_range");
    return syscall(SYS_copy_file_range, in, in_at, out, out_at, len, flags);
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t len) {
    if (tracked(out))
        give_up("sendfile");
    return syscall(SYS_sendfile, out, in, at, len);
}

void *mmap64(void *at, size_t len, int prot, int flags, int fd, off64_t offset) {
    if (fd >= 0 && flags & MAP_SHARED && prot & PROT_WRITE && tracked(fd))
        give_up("a shared writable mapping");
    return (void *)syscall(SYS_mmap, at, len, prot, flags, fd, offset);
}
void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset) {
    return mmap64(at, len, prot, flags, fd, offset);
}
