package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const patience = time.Minute

// source is the process's own SVID, kept fresh, and its SPIFFE ID.
func source() (*workloadapi.X509Source, spiffeid.ID, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return nil, spiffeid.ID{}, err
	}
	svid, err := source.GetX509SVID()
	if err != nil {
		return nil, spiffeid.ID{}, err
	}
	return source, svid.ID, nil
}

// serve prints the port, answers one caller of its own SPIFFE ID, and ends.
func serve() error {
	source, own, err := source()
	if err != nil {
		return err
	}
	defer source.Close()
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer plain.Close()
	fmt.Printf("port %d\n", plain.Addr().(*net.TCPAddr).Port)
	config := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(own))
	stream, err := tls.NewListener(plain, config).Accept()
	if err != nil {
		return err
	}
	defer stream.Close()
	stream.SetDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(stream).ReadString('\n')
	if err != nil || line != "ping\n" {
		return fmt.Errorf("the caller said %q: %v", line, err)
	}
	if _, err := fmt.Fprintf(stream, "pong %s\n", own); err != nil {
		return err
	}
	fmt.Println("ok tls_server")
	return nil
}

// call calls a server of another language, which must have the same SPIFFE ID.
func call(port string) error {
	source, own, err := source()
	if err != nil {
		return err
	}
	defer source.Close()
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(own))
	dialer := &net.Dialer{Timeout: patience}
	stream, err := tls.DialWithDialer(dialer, "tcp", "127.0.0.1:"+port, config)
	if err != nil {
		return err
	}
	defer stream.Close()
	stream.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(stream, "ping\n"); err != nil {
		return err
	}
	answer, err := bufio.NewReader(stream).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	if strings.TrimSpace(answer) != "pong "+own.String() {
		return fmt.Errorf("the server said %q", answer)
	}
	fmt.Println("ok tls_client")
	return nil
}
