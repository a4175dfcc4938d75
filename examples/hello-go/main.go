// An ordinary Go server: one process, one port. Go uses all cores by itself. With several
// processes, each core has its own heap and garbage collector, and a crash affects only a part
// of the requests.
//
//	CGO_ENABLED=0 go build -o hello-go .
package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

const version = "1.0.0"

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "3000"
	}
	http.HandleFunc("/", hello)
	if err := http.ListenAndServe(":"+port, nil); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

func hello(w http.ResponseWriter, r *http.Request) {
	answer := map[string]any{
		"pid":      os.Getpid(),
		"instance": os.Getenv("NODE_APP_INSTANCE"),
		"path":     r.URL.Path,
		"version":  version,
	}
	status := http.StatusOK
	switch {
	case r.Method == http.MethodPost:
		// A body is echoed, with its length in bytes.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // usually, the client has closed the connection
		}
		answer["length"], answer["body"] = len(body), string(body)
	case r.URL.Path == "/slow":
		ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
		time.Sleep(time.Duration(ms) * time.Millisecond)
	case r.URL.Path != "/" && r.URL.Path != "/healthz":
		status = http.StatusNotFound
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer)
}
