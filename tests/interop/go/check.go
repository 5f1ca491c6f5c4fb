package main

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	audience = "interop"
	soon     = 30 * time.Second
)

var taskBindingOID = asn1.ObjectIdentifier{
	1, 2, 840, 113556, 1, 8000, 2554, 17883, 35219, 41951, 18175, 36858, 4083584, 4197132, 1,
}

// taskBinding is the certificate extension that names the task (decision 0001).
type taskBinding struct {
	Version int
	LogID   []byte
	TaskID  []byte
	RootID  []byte
	Bucket  int64
	Index   int64
}

// run is what the steps hand to one another.
type run struct {
	client   *workloadapi.Client
	id       spiffeid.ID
	token    string
	task     string
	contexts chan update
	source   *workloadapi.X509Source
}

// update is what a stream brought.
type update struct {
	context *workloadapi.X509Context
	err     error
}

func (c chanWatcher) OnX509ContextUpdate(context *workloadapi.X509Context) { c <- update{context, nil} }
func (c chanWatcher) OnX509ContextWatchError(err error)                    { c <- update{nil, err} }

type chanWatcher chan update

// check goes through every step and stops at the first that fails: the next ones build on it.
func check() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	r := &run{client: client}
	steps := []struct {
		name string
		step func(context.Context) error
	}{
		{"x509_context", r.x509Context}, {"jwt", r.jwt}, {"bundles", r.bundles},
		{"x509_source", r.x509Source}, {"rotation", r.rotation},
		{"withdrawal", r.withdrawal}, {"no_revival", r.noRevival},
	}
	for _, s := range steps {
		if err := s.step(ctx); err != nil {
			fmt.Printf("FAIL %s: %v\n", s.name, err)
			return err
		}
		fmt.Printf("ok %s\n", s.name)
	}
	return nil
}

// short bounds one call.
func short(ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, soon)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func (r *run) x509Context(ctx context.Context) error {
	start := time.Now()
	fetched, err := r.client.FetchX509Context(short(ctx))
	if err != nil {
		return err
	}
	if took := time.Since(start); took > 2*time.Second {
		return fmt.Errorf("the first answer took %v", took)
	}
	svid := fetched.DefaultSVID()
	id, _, err := x509svid.Verify(svid.Certificates, fetched.Bundles)
	if err != nil {
		return err
	}
	if id != svid.ID {
		return fmt.Errorf("judged as %s", id)
	}
	r.id = svid.ID
	r.task, err = taskOf(svid.Certificates[0])
	return err
}

// taskOf reads the task from the extension, whose place must be the serial's (P13).
func taskOf(leaf *x509.Certificate) (string, error) {
	for _, extension := range leaf.Extensions {
		if !extension.Id.Equal(taskBindingOID) {
			continue
		}
		var binding taskBinding
		if _, err := asn1.Unmarshal(extension.Value, &binding); err != nil {
			return "", err
		}
		serial := leaf.SerialNumber.FillBytes(make([]byte, 20))
		bucket, index := number(serial[2:6]), number(serial[6:11])
		if extension.Critical || serial[0] != 1 || bucket != binding.Bucket || index != binding.Index {
			return "", fmt.Errorf("extension %+v does not go with serial %x", binding, serial)
		}
		h := hex.EncodeToString(binding.TaskID)
		return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-"), nil
	}
	return "", errors.New("the certificate names no task")
}

func number(octets []byte) int64 {
	var n int64
	for _, octet := range octets {
		n = n<<8 | int64(octet)
	}
	return n
}

func (r *run) jwt(ctx context.Context) error {
	svid, err := r.client.FetchJWTSVID(short(ctx), jwtsvid.Params{Audience: audience, Subject: r.id})
	if err != nil {
		return err
	}
	r.token = svid.Marshal()
	bundles, err := r.client.FetchJWTBundles(short(ctx))
	if err != nil {
		return err
	}
	judged, err := jwtsvid.ParseAndValidate(r.token, bundles, []string{audience})
	if err != nil {
		return err
	}
	if judged.ID != r.id {
		return fmt.Errorf("judged as %s", judged.ID)
	}
	if _, err := jwtsvid.ParseAndValidate(r.token, bundles, []string{"another"}); err == nil {
		return errors.New("the token is taken for another audience")
	}
	judged, err = r.client.ValidateJWTSVID(short(ctx), r.token, audience)
	if err != nil {
		return err
	}
	if judged.ID != r.id {
		return fmt.Errorf("the server judged %s", judged.ID)
	}
	if _, err := r.client.ValidateJWTSVID(short(ctx), r.token, "another"); err == nil {
		return errors.New("the server takes the token for another audience")
	}
	claim, _ := judged.Claims["https://taskmint.dev/task"].(map[string]any)
	if claim["task"] != r.task {
		return fmt.Errorf("the token is of task %v, the certificate of %s", claim["task"], r.task)
	}
	return nil
}

func (r *run) bundles(ctx context.Context) error {
	x509Bundles, err := r.client.FetchX509Bundles(short(ctx))
	if err != nil {
		return err
	}
	if own, ok := x509Bundles.Get(r.id.TrustDomain()); !ok || own.Empty() {
		return errors.New("no X.509 authority")
	}
	jwtBundles, err := r.client.FetchJWTBundles(short(ctx))
	if err != nil {
		return err
	}
	if own, ok := jwtBundles.Get(r.id.TrustDomain()); !ok || own.Empty() {
		return errors.New("no JWT authority")
	}
	return nil
}

func (r *run) x509Source(ctx context.Context) (err error) {
	if r.source, err = workloadapi.NewX509Source(short(ctx)); err != nil {
		return err
	}
	_, err = r.source.GetX509BundleForTrustDomain(r.id.TrustDomain())
	return err
}

// rotation prepares and activates a new CA: the open stream brings a bundle that has it.
func (r *run) rotation(ctx context.Context) error {
	r.contexts = make(chan update, 64)
	go r.client.WatchX509Context(ctx, chanWatcher(r.contexts))
	before, err := r.authorities()
	if err != nil {
		return err
	}
	if err := operator("rotate"); err != nil {
		return err
	}
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); {
		after, err := r.authorities()
		if err != nil {
			return err
		}
		if after > before {
			return nil
		}
	}
	return errors.New("the stream brought no bundle with the new authority")
}

// authorities counts those in the next message.
func (r *run) authorities() (int, error) {
	next, err := r.next()
	if err != nil {
		return 0, err
	}
	own, ok := next.Bundles.Get(r.id.TrustDomain())
	if !ok {
		return 0, errors.New("no bundle")
	}
	return len(own.X509Authorities()), nil
}

func (r *run) next() (*workloadapi.X509Context, error) {
	select {
	case got := <-r.contexts:
		return got.context, got.err
	case <-time.After(soon):
		return nil, errors.New("nothing came on the stream")
	}
}

// withdrawal revokes the task: the open stream ends with PermissionDenied.
func (r *run) withdrawal(ctx context.Context) error {
	if err := operator("revoke", r.task); err != nil {
		return err
	}
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); {
		_, err := r.next()
		if err == nil {
			continue
		}
		if status.Code(err) != codes.PermissionDenied {
			return fmt.Errorf("the stream ended with %v", err)
		}
		return nil
	}
	return errors.New("the stream stayed open")
}

// noRevival: the client's own retries, and ours, bring nothing back.
func (r *run) noRevival(ctx context.Context) error {
	seconds, err := strconv.Atoi(os.Getenv("INTEROP_PATIENCE"))
	if err != nil {
		seconds = 20
	}
	for deadline := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(deadline); {
		_, err := r.client.FetchX509SVID(short(ctx))
		if status.Code(err) != codes.PermissionDenied {
			return fmt.Errorf("an X.509-SVID: %v", err)
		}
		_, err = r.client.FetchJWTSVID(short(ctx), jwtsvid.Params{Audience: audience})
		if status.Code(err) != codes.PermissionDenied {
			return fmt.Errorf("a JWT-SVID: %v", err)
		}
		if _, err := r.client.ValidateJWTSVID(short(ctx), r.token, audience); err == nil {
			return errors.New("the token of the ended task is valid")
		}
		select {
		case got := <-r.contexts:
			if got.err == nil {
				return errors.New("the client's own retries brought an SVID back")
			}
			if status.Code(got.err) != codes.PermissionDenied {
				return fmt.Errorf("a retry ended with %v", got.err)
			}
		case <-time.After(time.Second):
		}
	}
	return r.source.Close()
}

func operator(arguments ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	said, err := exec.CommandContext(ctx, os.Getenv("INTEROP_OPERATOR"), arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("operator %v: %v: %s", arguments, err, said)
	}
	return nil
}
