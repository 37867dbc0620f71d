// Checks a log against its checkpoints with Go's own transparency log packages:
//
//	tree LOG NOTE KEY [NOTE KEY ...]
//
// Every note must be signed by its key and sign the root of the lines that it counts; every line must have an inclusion
// proof in the last one, and every note a consistency proof to the next. Then every proof must fail for other lines.
package main

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type store []tlog.Hash

func (s store) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, s[i])
	}
	return out, nil
}

func build(lines [][]byte) store {
	var s store
	for i, line := range lines {
		hashes, err := tlog.StoredHashes(int64(i), line, s)
		must(err)
		s = append(s, hashes...)
	}
	return s
}

func must(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func fail(format string, args ...interface{}) {
	fmt.Printf(format+"\n", args...)
	os.Exit(1)
}

type point struct {
	size int64
	root tlog.Hash
}

func read(path, key string) point {
	data, err := os.ReadFile(path)
	must(err)
	verifier, err := note.NewVerifier(key)
	must(err)
	opened, err := note.Open(data, note.VerifierList(verifier))
	must(err)
	fields := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(fields[1], 10, 64)
	must(err)
	root, err := tlog.ParseHash(fields[2])
	must(err)
	return point{size, root}
}

func main() {
	data, err := os.ReadFile(os.Args[1])
	must(err)
	lines := bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
	tree := build(lines)
	var points []point
	for i := 2; i+1 < len(os.Args); i += 2 {
		p := read(os.Args[i], os.Args[i+1])
		if p.size > int64(len(lines)) {
			fail("checkpoint of %d lines, but there are %d", p.size, len(lines))
		}
		root, err := tlog.TreeHash(p.size, tree)
		must(err)
		if root != p.root {
			fail("root of %d lines is not the signed one", p.size)
		}
		points = append(points, p)
	}
	last := points[len(points)-1]
	for i := int64(0); i < last.size; i++ {
		proof, err := tlog.ProveRecord(last.size, i, tree)
		must(err)
		must(tlog.CheckRecord(proof, last.size, last.root, i, tlog.RecordHash(lines[i])))
		if tlog.CheckRecord(proof, last.size, last.root, i, tlog.RecordHash([]byte("other"))) == nil {
			fail("a proof for another record passed")
		}
	}
	for i := 0; i+1 < len(points); i++ {
		proof, err := tlog.ProveTree(points[i+1].size, points[i].size, tree)
		must(err)
		must(tlog.CheckTree(proof, points[i+1].size, points[i+1].root, points[i].size, points[i].root))
	}
	random := rand.New(rand.NewSource(1))
	for i := 0; i < 200; i++ {
		at, bit := random.Int63n(last.size), random.Intn(8)
		edited := append([][]byte{}, lines...)
		line := append([]byte{}, lines[at]...)
		line[random.Intn(len(line))] ^= 1 << bit
		edited[at] = line
		root, err := tlog.TreeHash(last.size, build(edited))
		must(err)
		if root == last.root {
			fail("an edited line %d has the signed root", at+1)
		}
	}
	fmt.Printf("%d checkpoints, %d proofs, 200 edits refused\n", len(points), last.size)
}
