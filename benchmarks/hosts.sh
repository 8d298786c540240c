#!/bin/sh
# Several hosts on one machine: "mpiexec -n N COMMAND" with each rank on a host of its own.
#
#     sh benchmarks/hosts.sh MPIEXEC N COMMAND...
#
# A host is a network namespace and a process namespace; a bridge joins them. All of it is in a user namespace, which
# needs no rights and ends with the command (Linux, with unshare and ip).
set -e
if [ -z "$HOSTS_INSIDE" ]; then
    HOSTS_INSIDE=1 exec unshare --map-root-user --net --mount sh "$0" "$@"
fi
mpiexec=$1 ranks=$2 hosts='' number=1
shift 2
mount -t tmpfs none /run
ip link set lo up
ip link add bridge0 type bridge
ip addr add 10.77.0.254/24 dev bridge0
ip link set bridge0 up
while [ "$number" -le "$ranks" ]; do
    ip netns add "host$number"
    ip link add "port$number" master bridge0 type veth peer name eth0 netns "host$number"
    ip link set "port$number" up
    ip -n "host$number" addr add "10.77.0.$number/24" dev eth0
    ip -n "host$number" link set eth0 up
    ip -n "host$number" link set lo up
    hosts=$hosts${hosts:+,}10.77.0.$number
    number=$((number + 1))
done
cat >/run/launch <<'LAUNCH' # what mpiexec calls instead of ssh: options, host, command
#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=host${1##*.}
shift
exec ip netns exec "$host" unshare --pid --fork --kill-child --mount-proc sh -c "$*"
LAUNCH
chmod +x /run/launch
exec "$mpiexec" -launcher ssh -launcher-exec /run/launch -iface bridge0 -hosts "$hosts" -n "$ranks" "$@"
