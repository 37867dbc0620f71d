// A witness of c2sp.org/tlog-witness in a page, on Go's own packages for signed notes and transparency logs:
//
//	witness NAME KEYS
//
// KEYS is a file with the verifier key of a log on each line, read anew for each request. Its own key and address are the
// first two lines of its output. What it has seen is forgotten when it ends.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type seen struct {
	size int64
	root tlog.Hash
}

type refusal struct {
	status int
	body   string
}

type witness struct {
	name string
	keys string
	key  ed25519.PrivateKey
	mu   sync.Mutex
	logs map[string]seen
}

const cosignature = 4

func (w *witness) id() []byte {
	hash := sha256.Sum256(append([]byte(w.name+"\n"+string(rune(cosignature))), w.key.Public().(ed25519.PublicKey)...))
	return hash[:4]
}

func (w *witness) verifiers() (note.Verifiers, error) {
	data, err := os.ReadFile(w.keys)
	if err != nil {
		return nil, err
	}
	var list []note.Verifier
	for _, line := range strings.Fields(string(data)) {
		verifier, err := note.NewVerifier(line)
		if err != nil {
			return nil, err
		}
		list = append(list, verifier)
	}
	return note.VerifierList(list...), nil
}

func (w *witness) add(body []byte) (string, *refusal) {
	head, rest, ok := bytes.Cut(body, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !ok || !strings.HasPrefix(lines[0], "old ") {
		return "", &refusal{400, "form"}
	}
	old, err := strconv.ParseInt(lines[0][4:], 10, 64)
	if err != nil {
		return "", &refusal{400, "old"}
	}
	var proof tlog.TreeProof
	for _, line := range lines[1:] {
		var hash tlog.Hash
		bytes, err := base64.StdEncoding.DecodeString(line)
		if err != nil || copy(hash[:], bytes) != len(hash) {
			return "", &refusal{400, "proof"}
		}
		proof = append(proof, hash)
	}
	verifiers, err := w.verifiers()
	if err != nil {
		return "", &refusal{500, err.Error()}
	}
	signed, err := note.Open(rest, verifiers)
	if err != nil {
		return "", &refusal{403, err.Error()}
	}
	text := strings.SplitN(signed.Text, "\n", 4)
	if len(text) != 4 || signed.Sigs[0].Name != text[0] {
		return "", &refusal{400, "checkpoint"}
	}
	size, err := strconv.ParseInt(text[1], 10, 64)
	root, err2 := tlog.ParseHash(text[2])
	if err != nil || err2 != nil || old > size {
		return "", &refusal{400, "checkpoint"}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	last := w.logs[text[0]]
	if last.size != old {
		return "", &refusal{409, strconv.FormatInt(last.size, 10) + "\n"}
	}
	if old == size && root != last.root {
		return "", &refusal{409, strconv.FormatInt(last.size, 10) + "\n"}
	}
	if old > 0 && old < size {
		if err := tlog.CheckTree(proof, size, root, old, last.root); err != nil {
			return "", &refusal{422, err.Error()}
		}
	}
	w.logs[text[0]] = seen{size, root}
	now := time.Now().Unix()
	line := w.id()
	line = binary.BigEndian.AppendUint64(line, uint64(now))
	line = append(line, ed25519.Sign(w.key, []byte(fmt.Sprintf("cosignature/v1\ntime %d\n%s", now, signed.Text)))...)
	return fmt.Sprintf("\u2014 %s %s\n", w.name, base64.StdEncoding.EncodeToString(line)), nil
}

func main() {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	w := &witness{name: os.Args[1], keys: os.Args[2], key: key, logs: map[string]seen{}}
	public := append([]byte{cosignature}, key.Public().(ed25519.PublicKey)...)
	fmt.Printf("%s+%x+%s\n", w.name, w.id(), base64.StdEncoding.EncodeToString(public))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("http://%s\n", listener.Addr())
	http.HandleFunc("/add-checkpoint", func(out http.ResponseWriter, in *http.Request) {
		body, err := io.ReadAll(in.Body)
		if err != nil {
			return
		}
		line, refused := w.add(body)
		if refused != nil {
			out.WriteHeader(refused.status)
			line = refused.body
		}
		io.WriteString(out, line)
	})
	panic(http.Serve(listener, nil))
}
