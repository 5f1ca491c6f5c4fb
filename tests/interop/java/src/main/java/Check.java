import io.grpc.Status;
import io.spiffe.bundle.x509bundle.X509Bundle;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.Watcher;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** The Workload API, step by step. */
final class Check {
  private static final String AUDIENCE = "interop";
  private static final Duration SOON = Duration.ofSeconds(30);

  private final WorkloadApiClient client;

  /** What the stream brought: an {@link X509Context}, or the {@link Throwable} that ended it. */
  private final BlockingQueue<Object> contexts = new LinkedBlockingQueue<>();

  private SpiffeId own;
  private String token;
  private String task;

  Check() throws Exception {
    client = DefaultWorkloadApiClient.newClient();
  }

  /** A step, which may fail in any way. */
  private interface Step {
    void run() throws Exception;
  }

  /** Goes through every step; stops at the first that fails: the next ones build on it. */
  void all() throws Exception {
    step("x509_context", this::x509Context);
    step("jwt", this::jwt);
    step("bundles", this::bundles);
    step("x509_source", this::x509Source);
    step("rotation", this::rotation);
    step("withdrawal", this::withdrawal);
    step("no_revival", this::noRevival);
  }

  private static void step(String name, Step step) throws Exception {
    try {
      step.run();
    } catch (Exception error) {
      System.out.println("FAIL " + name + ": " + error);
      throw error;
    }
    System.out.println("ok " + name);
  }

  private void x509Context() throws Exception {
    X509Context context = client.fetchX509Context();
    X509Svid svid = context.getDefaultSvid();
    own = svid.getSpiffeId();
    X509Bundle bundle = context.getX509BundleSet().getBundleForTrustDomain(own.getTrustDomain());
    Client.ensure(!bundle.getX509Authorities().isEmpty(), "the own bundle is empty");
    boolean signed = false;
    for (var authority : bundle.getX509Authorities()) {
      signed |= authority.getSubjectX500Principal().equals(svid.getLeaf().getIssuerX500Principal());
    }
    Client.ensure(signed, "no authority of the bundle issued the SVID");
  }

  private void jwt() throws Exception {
    JwtSvid svid = client.fetchJwtSvid(own, AUDIENCE);
    Client.ensure(svid.getSpiffeId().equals(own), "the token is for " + svid.getSpiffeId());
    token = svid.getToken();
    task = (String) ((Map<?, ?>) svid.getClaims().get("https://taskmint.dev/task")).get("task");
    var bundles = client.fetchJwtBundles();
    JwtSvid judged = JwtSvid.parseAndValidate(token, bundles, Set.of(AUDIENCE));
    Client.ensure(judged.getSpiffeId().equals(own), "judged as " + judged.getSpiffeId());
    refused("a token for another audience",
        () -> JwtSvid.parseAndValidate(token, bundles, Set.of("another")));
    judged = client.validateJwtSvid(token, AUDIENCE);
    Client.ensure(judged.getSpiffeId().equals(own), "the server judged " + judged.getSpiffeId());
    refused("a token for another audience, by the server,",
        () -> client.validateJwtSvid(token, "another"));
  }

  private void bundles() throws Exception {
    var x509 = client.fetchX509Bundles().getBundleForTrustDomain(own.getTrustDomain());
    Client.ensure(!x509.getX509Authorities().isEmpty(), "no X.509 authority");
    var jwt = client.fetchJwtBundles().getBundleForTrustDomain(own.getTrustDomain());
    Client.ensure(!jwt.getJwtAuthorities().isEmpty(), "no JWT authority");
  }

  private void x509Source() throws Exception {
    try (DefaultX509Source source = DefaultX509Source.newSource()) {
      Client.ensure(source.getX509Svid().getSpiffeId().equals(own), "the source has another SVID");
    }
  }

  /** A new CA is prepared and activated: the open stream brings a bundle that has it. */
  private void rotation() throws Exception {
    client.watchX509Context(
        new Watcher<>() {
          @Override
          public void onUpdate(X509Context update) {
            contexts.add(update);
          }

          @Override
          public void onError(Throwable error) {
            contexts.add(error);
          }
        });
    int before = authorities(next());
    operator("rotate");
    Instant deadline = Instant.now().plus(SOON);
    while (authorities(next()) <= before) {
      Client.ensure(Instant.now().isBefore(deadline), "no bundle with the new authority came");
    }
  }

  private int authorities(Object update) throws Exception {
    Client.ensure(update instanceof X509Context, "the stream ended with " + update);
    var bundles = ((X509Context) update).getX509BundleSet();
    return bundles.getBundleForTrustDomain(own.getTrustDomain()).getX509Authorities().size();
  }

  private Object next() throws InterruptedException {
    Object next = contexts.poll(SOON.toSeconds(), TimeUnit.SECONDS);
    Client.ensure(next != null, "nothing came on the stream");
    return next;
  }

  /**
   * The task is revoked: calls end with PermissionDenied at once. The client retries a stream without
   * telling its watcher, so what counts on it is that nothing more comes.
   */
  private void withdrawal() throws Exception {
    operator("revoke", task);
    Instant deadline = Instant.now().plus(SOON);
    while (true) {
      try {
        client.fetchX509Context();
        Client.ensure(Instant.now().isBefore(deadline), "the SVID is still given");
        Thread.sleep(20);
      } catch (Exception error) {
        denied("an X.509-SVID", error);
        break;
      }
    }
    Object left = contexts.poll();
    while (left instanceof X509Context) {
      left = contexts.poll();
    }
    if (left instanceof Throwable error) {
      denied("the stream", error);
    }
  }

  /** The client's own retries, and ours, bring nothing back. */
  private void noRevival() throws Exception {
    String seconds = System.getenv().getOrDefault("INTEROP_PATIENCE", "20");
    Instant deadline = Instant.now().plusSeconds(Long.parseLong(seconds));
    while (Instant.now().isBefore(deadline)) {
      denied("an X.509-SVID", refused("an X.509-SVID", client::fetchX509Context));
      denied("a JWT-SVID", refused("a JWT-SVID", () -> client.fetchJwtSvid(AUDIENCE)));
      refused("the token of the ended task", () -> client.validateJwtSvid(token, AUDIENCE));
      for (Object update = contexts.poll(); update != null; update = contexts.poll()) {
        Client.ensure(!(update instanceof X509Context), "the client's own retries brought an SVID");
        denied("the stream", (Throwable) update);
      }
      Thread.sleep(1000);
    }
  }

  private static Exception refused(String what, Step call) {
    try {
      call.run();
    } catch (Exception error) {
      return error;
    }
    throw new IllegalStateException(what + " was accepted");
  }

  /** The status somewhere below the client's own exceptions must be PermissionDenied. */
  private static void denied(String what, Throwable error) {
    Status.Code code = Status.fromThrowable(error).getCode();
    if (code != Status.Code.PERMISSION_DENIED) {
      throw new IllegalStateException(what + " was refused with " + code, error);
    }
  }

  private static void operator(String... arguments) throws Exception {
    String[] command = new String[arguments.length + 1];
    command[0] = System.getenv("INTEROP_OPERATOR");
    System.arraycopy(arguments, 0, command, 1, arguments.length);
    Process process =
        new ProcessBuilder(command)
            .redirectOutput(ProcessBuilder.Redirect.DISCARD)
            .redirectError(ProcessBuilder.Redirect.INHERIT)
            .start();
    boolean ended = process.waitFor(SOON.toSeconds(), TimeUnit.SECONDS);
    Client.ensure(ended && process.exitValue() == 0, "operator failed");
  }
}
